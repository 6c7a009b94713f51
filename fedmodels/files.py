"""Reading and writing the small files that a study lives in."""

import os
import tempfile
from pathlib import Path

from fedmodels.errors import UsageError


def read_text(path: Path) -> str:
    """The UTF-8 text of a file that a person named; `UsageError` when it is absent or not UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path), fix="check the path") from None
    except IsADirectoryError:
        raise UsageError("is a folder, not a file", where=str(path), fix="name the file inside it") from None
    except PermissionError:
        raise UsageError("not readable by this user", where=str(path), fix="change its permissions") from None
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=str(path), fix="save it as UTF-8") from None


def write_synced(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` so that after a crash the file holds either the old or the new content, on disk, never a part."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_quickly(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file for this user alone, and put it in the place of an old one once it is whole.

    It is not synced: after a crash of the machine it may be absent or empty, and after a crash of the process absent.
    The old one goes first, since ext4 writes a file to the disk at once that is renamed over another one: the next
    sync, of whatever file, would wait for megabytes.
    """
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for data in parts:
            file.write(data)
    path.unlink(missing_ok=True)
    part.rename(path)
