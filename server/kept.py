"""Uploads of a `recover` session on the coordinator's disk, until the session is over.

They are masked vectors, one of the model's size for each hospital, in the run directory: the folder for temporary files
is often in memory.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from fedmodels.secagg import Vector

_FOLDER = "uploads"


def forget_uploads(directory: Path) -> None:
    """Remove what a coordinator that was killed left in a run directory."""
    shutil.rmtree(directory / _FOLDER, ignore_errors=True)


class Kept:
    """The uploads of one session on disk, for a hospital that fails after its upload and has to come out again.

    directory: of the run. Only this user can read them; nothing is left when the session is over, and what was left by
    a coordinator that was killed goes when the next one begins.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> "Kept":
        forget_uploads(self._directory)
        return self

    def __exit__(self, *_: object) -> None:
        forget_uploads(self._directory)

    def _path(self, name: str) -> Path:
        return self._directory / _FOLDER / f"{name}.npy"

    def put(self, name: str, vector: Vector) -> None:
        path = self._path(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, vector)

    def get(self, name: str) -> Vector | None:
        path = self._path(name)
        return np.load(path) if path.exists() else None
