"""`mortal.py FOLDER ARGUMENTS...`: the `fedmodels` command in a process that kills itself (SIGKILL) at chosen points.

A file in FOLDER named after a point holds the number of times that the point is still passed; the last time, the file
is removed and the process is gone. Without files this is the command as it is.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmodels import cli

POINTS = ("training", "charged", "logged", "unmask", "evaluation")


def dies(folder: Path, point: str) -> None:
    file = folder / point
    if file.exists():
        left = int(file.read_text())
        if left > 1:
            file.write_text(str(left - 1))
            return
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def wrap(
    owner: Any, name: str, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> None:
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if before:
            before()
        result = original(*arguments, **options)
        if after:
            after()
        return result

    setattr(owner, name, wrapped)


def main() -> None:
    folder = Path(sys.argv.pop(1))
    if sys.argv[1] == "client":
        from client import site
        from client.ledger import Ledger

        wrap(site, "update_vector", before=lambda: dies(folder, "training"))  # charged, and the data are in use
        wrap(Ledger, "append", after=lambda: dies(folder, "charged"))  # between ledger and upload
        wrap(site.Site, "was_logged", before=lambda: dies(folder, "logged"))  # trained, masked, logged; not sent
        wrap(site.Site, "_unmask", before=lambda: dies(folder, "unmask"))  # between upload and unmask
        wrap(site, "counts_vector", before=lambda: dies(folder, "evaluation"))
    cli.main()


if __name__ == "__main__":
    main()
