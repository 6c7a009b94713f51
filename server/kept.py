"""Uploads of a `recover` session on the coordinator's disk, until the session is over.

They are masked vectors, one of the model's size for each hospital, in the run directory: the folder for temporary files
is often in memory. Nothing but these files is ever removed there.
"""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from fedmodels.secagg import Vector

_FOLDER, _SUFFIX = "uploads", ".masked.npy"


def forget_uploads(directory: Path) -> None:
    """Remove what a coordinator that was killed left in a run directory."""
    folder = directory / _FOLDER
    with suppress(OSError):  # no such folder, or one that also holds files of somebody else
        for path in folder.glob(f"*{_SUFFIX}"):
            path.unlink()
        folder.rmdir()


class Kept:
    """The uploads of one session on disk, for a hospital that fails after its upload and has to come out again.

    directory: of the run. Only this user can read them; nothing is left when the session is over, not even of an
    earlier one whose coordinator was killed. A session that keeps nothing leaves the directory alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: set[str] = set()

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, *_: object) -> None:
        if self._names:
            forget_uploads(self._directory)

    def _path(self, name: str) -> Path:
        return self._directory / _FOLDER / f"{name}{_SUFFIX}"

    def put(self, name: str, vector: Vector) -> None:
        self._names.add(name)
        path = self._path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, vector)

    def get(self, name: str) -> Vector | None:
        return np.load(self._path(name)) if name in self._names else None
