"""The log of what left: one line for each message out, written and synced before the message leaves.

`log.jsonl` holds the lines. Each carries the SHA-256 of exactly the bytes that leave (the encoded reply and, after it,
those of the masked vector) and the SHA-256 of the line before, so that an edited or removed line is found. `sent/`
holds the bytes themselves, each message in a file named by its own SHA-256; masked vectors up to a limit, oldest out
first. A message whose line cannot be written does not leave. The files in `sent/` are not synced: a crash of the
machine can cost evidence, never the record.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from fedmodels.errors import FedmodelsError
from fedmodels.files import write_quickly
from fedmodels.typed import Strict

_LONGEST_LINE = 4096
UPLOAD = ".upload"


class LogError(FedmodelsError):
    """The log is not what this hospital wrote."""


class Line(Strict, frozen=True):
    """One message out. bytes: its size; run: in hex, and session: its number, where the message belongs to one.

    epsilon: of the study with this upload, where the upload cost any that is finite. previous: SHA-256 of the line
    before, empty in the first one.
    """

    time: str
    to: str
    kind: str
    run: str
    session: int | None
    bytes: int
    sha256: str
    epsilon: float | None
    previous: str


@dataclass(frozen=True, repr=False)
class Message:
    """What is about to leave: the encoded reply and, beside it, a masked vector."""

    reply: bytes
    vector: npt.NDArray[np.uint32] | bytes | None = None

    @property
    def size(self) -> int:
        return len(self.reply) + len(self._beside)

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256(self.reply)
        digest.update(self._beside)
        return digest.hexdigest()

    @property
    def _beside(self) -> memoryview:
        if isinstance(self.vector, np.ndarray):
            return np.ascontiguousarray(self.vector).data.cast("B")
        return memoryview(self.vector or b"")


@dataclass(frozen=True)
class Context:
    """What a line says beside size and digest; see `Line`."""

    time: str
    to: str
    kind: str
    run: str = ""
    session: int | None = None
    epsilon: float | None = None


class SentLog:
    """The log of one site directory."""

    def __init__(self, directory: Path) -> None:
        self.path, self.kept = directory / "log.jsonl", directory / "sent"

    def record(self, context: Context, message: Message, upload: Path | None = None, keep_bytes: int = 0) -> None:
        """Keep the message and write its line; after that it may leave.

        upload: a file of exactly its bytes, which shares the disk space of the copy; keep_bytes: most that all
        uploads kept may take. Without one the reply is kept alone.
        """
        digest = message.sha256
        self.kept.mkdir(mode=0o700, exist_ok=True)
        if upload is None:
            write_quickly(self.kept / digest, message.reply)
        elif message.size <= keep_bytes:
            _share(upload, self.kept / (digest + UPLOAD))
        with self._locked() as log:
            line = Line(
                **vars(context), bytes=message.size, sha256=digest, previous=line_hash(self._last(log, mend=True))
            )
            data = msgspec.json.encode(line) + b"\n"
            if os.write(log, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(log)
        if upload is not None:
            self._prune(keep_bytes)

    def newest(self) -> Line | None:
        """The last line."""
        if not self.path.exists():
            return None
        with self._locked() as log:
            last = self._last(log)
        return _decode(last, self.path) if last else None

    def lines(self) -> Iterator[tuple[Line, bytes]]:
        """Every line and its own bytes, in order; a last one that a crash cut short never left and is passed over."""
        if self.path.exists():
            *whole, _ = self.path.read_bytes().split(b"\n")
            for data in whole:
                yield _decode(data, self.path), data

    @contextmanager
    def _locked(self) -> Iterator[int]:
        log = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(log, fcntl.LOCK_EX)
            yield log
        finally:
            os.close(log)

    def _last(self, log: int, *, mend: bool = False) -> bytes:
        """The last whole line. mend: cut off what a crash left after it; that message never left."""
        size = os.fstat(log).st_size
        start = max(0, size - 2 * _LONGEST_LINE)
        tail = os.pread(log, size - start, start)
        *whole, rest = tail.split(b"\n")
        if mend and rest:
            os.ftruncate(log, size - len(rest))
        return whole[-1] if whole else b""

    def _prune(self, keep_bytes: int) -> None:
        uploads = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.kept.glob(f"*{UPLOAD}"))
        total = sum(size for _, size, _ in uploads)
        for _, size, path in uploads:
            if total <= keep_bytes:
                return
            path.unlink()
            total -= size


def line_hash(line: bytes) -> str:
    """What the line after this one carries as `previous`."""
    return hashlib.sha256(line).hexdigest() if line else ""


def _decode(data: bytes, path: Path) -> Line:
    try:
        return msgspec.json.decode(data, type=Line)
    except msgspec.DecodeError:
        raise LogError(
            "a line of the log of what left cannot be read", where=str(path), fix="find out who changed it"
        ) from None


def _share(upload: Path, kept: Path) -> None:
    """The same bytes under another name, without a second copy where the file system can do that."""
    if kept.exists():
        return
    try:
        kept.hardlink_to(upload)
    except OSError:
        shutil.copyfile(upload, kept)
