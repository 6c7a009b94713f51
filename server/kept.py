"""Uploads of a `recover` session on the coordinator's disk, until the session is over."""

import tempfile
from pathlib import Path

import numpy as np

from fedmodels.secagg import Vector


class Kept:
    """The uploads of one session on disk, for a hospital that fails after its upload and has to come out again."""

    def __enter__(self) -> "Kept":
        self._folder = tempfile.TemporaryDirectory(prefix="fedmodels-")
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / f"{name}.npy"

    def put(self, name: str, vector: Vector) -> None:
        np.save(self._path(name), vector)

    def get(self, name: str) -> Vector | None:
        path = self._path(name)
        return np.load(path) if path.exists() else None
