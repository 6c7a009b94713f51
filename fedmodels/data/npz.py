"""Arrays of an NPZ, row by row, so that memory does not grow with the file. Nothing is ever unpickled."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fedmodels.data.csvfile import check_exists
from fedmodels.errors import DataError

Array = npt.NDArray[np.generic]

_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


@dataclass(frozen=True)
class Header:
    """What an array of an NPZ is, before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    by_column: bool


class Npz:
    """The arrays `names` of a file; `DataError` for a file that is none, or lacks one of them."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        check_exists(path)
        self._path = path
        try:
            with np.load(path, allow_pickle=False) as archive:
                if not isinstance(archive, np.lib.npyio.NpzFile):
                    raise DataError("holds one array, not an NPZ", where=str(path), fix="write it with numpy.savez")
                found = archive.files
            self.headers = {name: self._header(name) for name in names if name in found}
        except _BROKEN:
            raise self._malformed() from None
        if absent := [name for name in names if name not in found]:
            raise DataError(
                f"no array {', '.join(absent)}",
                where=str(path),
                fix=f"it has: {', '.join(found)}; correct `train` and `test` in the data binding",
            )

    def whole(self, name: str) -> Array:
        """A small array."""
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                array: Array = archive[name]
                return array
        except _BROKEN:
            raise self._malformed() from None

    def rows(self, name: str) -> Iterator[Array]:
        """The rows of an array one after the other."""
        header = self.headers[name]
        if header.by_column or header.dtype.hasobject:
            yield from self.whole(name)
            return
        shape = header.shape[1:]
        size = prod(shape) * header.dtype.itemsize
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
                _read_header(file)
                for _ in range(header.shape[0]):
                    content = file.read(size)
                    yield np.frombuffer(content, header.dtype, prod(shape)).reshape(shape)
        except _BROKEN:
            raise self._malformed() from None

    def _header(self, name: str) -> Header:
        with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
            return _read_header(file)

    def _malformed(self) -> DataError:
        return DataError(
            "is not an NPZ of plain arrays",
            where=str(self._path),
            fix="write it with numpy.savez, without Python objects",
        )


def _read_header(file: IO[bytes]) -> Header:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError("not a plain array")
    shape, by_column, dtype = readers[version](file)
    return Header(shape, dtype, by_column)
