"""What a hospital's node keeps in the site directory: its id, the message at hand, and a lock; and its key."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fedmodels.errors import UsageError
from fedmodels.files import write_synced


class NodeFiles:
    """What a node finds again after it was killed: `node.id` and `node.message`."""

    def __init__(self, site: Path) -> None:
        self._site, self._id, self._message = site, site / "node.id", site / "node.message"

    def node_id(self) -> int | None:
        """The id, where it was remembered in this very directory and not in one that this is a copy of."""
        try:
            node_id, inode = (int(word) for word in self._id.read_text("ascii").split())
        except (OSError, ValueError):
            return None
        return node_id if inode == self._site.stat().st_ino else None

    def remember(self, node_id: int) -> None:
        """Keep the id that the coordinator's link gave to this node."""
        write_synced(self._id, f"{node_id} {self._site.stat().st_ino}\n".encode())

    def take(self, message: bytes) -> None:
        """Keep the head of the message that is worked on from now on, before it is acted upon."""
        write_synced(self._message, message)

    def taken(self) -> bytes | None:
        """The head of the message that was being worked on when the last process died."""
        try:
            return self._message.read_bytes()
        except FileNotFoundError:
            return None

    def done(self) -> None:
        """The message at hand is answered, or nobody waits for it any more."""
        self._message.unlink(missing_ok=True)


@contextmanager
def alone(site: Path) -> Iterator[None]:
    """One node per site directory; `UsageError` for a second one."""
    with (site / ".node.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError("a node is running in this folder", where=str(site), fix="stop that one first") from None
        yield


def load_key(path: Path) -> EllipticCurvePrivateKey:
    """The node's private key (OpenSSH format); `UsageError` where it cannot be used."""
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UsageError("no usable node key", where=str(path), fix="restore it from the backup")
    return key
