"""Imported by every Python process that has this folder on PYTHONPATH: writes down who it talks to besides 127.0.0.1.

The file is named by FEDMODELS_AUDIT. Unix sockets do not leave the machine and are left out.
"""

import os
import sys

_HERE = ("127.0.0.1", "localhost")


def _watch(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = args[1]
        if isinstance(address, (str, bytes)):
            return
        host = address[0]  # type: ignore[index]
    elif event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.gethostbyname", "socket.sendto"):
        host = args[-1]
    else:
        return
    if host not in _HERE:
        with open(os.environ["FEDMODELS_AUDIT"], "a") as file:  # noqa: PTH123 - before anything is imported
            file.write(f"{os.getpid()} {event} {host!r}\n")


if "FEDMODELS_AUDIT" in os.environ:  # not in a process that only collects tests
    sys.addaudithook(_watch)
