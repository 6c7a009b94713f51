"""Where the images of a data set are kept once they are decoded: small sets in memory, large ones in one file.

Images are decoded once, all of them, before anything is spent on them: a damaged file shows when data are loaded, not
in the middle of a round that is already charged. Up to 64 MiB of decoded pixels stay in memory. More goes into a file
in the binding's `cache` folder, from which single records are read when a batch needs them: memory does not grow with
the data, and the next process does not decode again. The file is read by position rather than mapped into memory, so
that what was read counts as the system's page cache and never as this process's.

The file is made from patients' images, so it is the hospital's: readable by its user alone, on the hospital's disk. Its
name is a hash of the study's input, the binding's rules, the versions of the decoders, and path, size and time of every
image; whatever changes makes another file. It is written under a temporary name, synced and renamed, by one process at
a time. The newest four are kept, and all may be deleted at any time.
"""

import fcntl
import hashlib
import os
import shutil
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmodels.data.fitting import Values, stored_type
from fedmodels.errors import DataError
from fedmodels.study_input import ImageInput

_IN_MEMORY = 1 << 26  # bytes
_SPARE = 1 << 28  # bytes that are left free on the disk
_KEPT = 4


class StoredImages:
    """Images [n, channels, height, width] in a file, read when they are needed; numpy's functions take it as an array.

    An integer index gives one image; a slice, mask or array of integers gives `StoredImages` again, without reading.
    """

    def __init__(self, file: "_File", rows: npt.NDArray[np.int64]) -> None:
        self._file, self._rows = file, rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._rows), *self._file.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._file.kind

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as of an array
        rows = self._rows[index]
        return StoredImages(self._file, rows) if isinstance(rows, np.ndarray) else self._file.read(np.array([rows]))[0]

    def __iter__(self) -> Iterator[Values]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Values:
        if copy is False:
            raise ValueError("images in a file cannot become an array without copying")
        values = self._file.read(self._rows)
        return values if dtype is None else values.astype(dtype, copy=False)


Images = Values | StoredImages


@dataclass(frozen=True)
class Place:
    """Where many images would be kept. key: of all that they depend on beside the study's input."""

    folder: Path
    key: bytes


def gather(images: Iterable[Values], count: int, input_: ImageInput, place: Place) -> Images:
    """All `count` images of `stored_type`, each [channels, height, width]; not even begun if they were kept before.

    `DataError` when the disk is too small or the folder cannot be written. An error that `images` raises leaves nothing
    behind.
    """
    shape, kind = (input_.channels, input_.height, input_.width), stored_type(input_)
    size = count * prod(shape) * kind.itemsize
    if size <= _IN_MEMORY:
        whole = np.empty((count, *shape), dtype=kind)
        for position, image in zip(range(count), images, strict=True):
            whole[position] = image
        return whole
    identity = hashlib.sha256(repr((shape, kind.str, input_.low, input_.high)).encode() + place.key).hexdigest()
    path = place.folder / f"{identity}.images"
    try:
        if not _is_whole(path, size):
            with _only_writer(place.folder):
                if not _is_whole(path, size):
                    _write(path, (image for _, image in zip(range(count), images, strict=True)), size)
        os.utime(path)
        return StoredImages(_File(path, shape, kind), np.arange(count))
    except OSError as error:
        raise DataError(
            f"the decoded images cannot be kept ({error.strerror})",
            where=str(place.folder),
            fix="make the folder writable, or name another one as `cache` in the data binding",
        ) from None


class _File:
    """An open file of images, closed when nobody uses it any more; it may be deleted meanwhile."""

    def __init__(self, path: Path, shape: tuple[int, ...], kind: np.dtype[np.generic]) -> None:
        self.shape, self.kind = shape, kind
        self._where = str(path)
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, rows: npt.NDArray[np.int64]) -> Values:
        """[len(rows), ...] the images at these positions."""
        values = np.empty((len(rows), *self.shape), dtype=self.kind)
        record = prod(self.shape) * self.kind.itemsize
        flat = values.reshape(len(rows), prod(self.shape)).view(np.uint8)
        for line, row in zip(flat, rows.tolist(), strict=True):
            if os.preadv(self._descriptor, [line.data], row * record) != record:
                raise DataError("was cut off while in use", where=self._where, fix="delete it; it is made again")
        return values


def _is_whole(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Waits for another process that writes here; what a crashed one left is removed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob("*.part"):
            left.unlink()
        yield


def _write(path: Path, images: Iterable[Values], size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size + _SPARE:
        raise DataError(
            f"the decoded images need {size / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            where=str(path.parent),
            fix="make room, or name a folder on another disk as `cache` in the data binding",
        )
    part = path.with_suffix(".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for image in images:
                file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    kept = sorted(path.parent.glob("*.images"), key=lambda old: old.stat().st_mtime_ns)
    for old in kept[:-_KEPT]:
        old.unlink()
