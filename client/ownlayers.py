"""The layers of a model that never leave this hospital, as far as a study has any: `personal/` in the site directory.

One file for each run, 0600, named by the run; it is replaced before the upload that was trained with it leaves, and
is nobody's to ask for. In privacy mode `local` they are trained by the same noisy steps as the rest of the model, so
that what they did to the uploads is covered by the same epsilon; in mode `none` nothing is promised.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from fedmodels.errors import FileError
from fedmodels.files import write_synced
from fedmodels.models.personal import Weights
from fedmodels.models.registry import build_model, division
from fedmodels.models.weights import flatten, unflatten
from fedmodels.study import Study

_NAME = "own"


class OwnLayers:
    """This hospital's layers in one run of a study."""

    def __init__(self, folder: Path, run: str, study: Study) -> None:
        self._path, self._study = folder / f"{run}.safetensors", study
        self._division = division(study)

    @property
    def trained(self) -> bool:
        """Whether this hospital took part in the run."""
        return self._path.exists()

    def whole(self, shared: Weights) -> Weights:
        """[D] the model that these shared weights are here."""
        return self._division.join(shared, self._read() if self.trained else self._initial())

    def complete(self, model: nn.Module) -> None:
        """Put these layers into a model that came out of the run."""
        unflatten(model, self.whole(self._division.shared_of(flatten(model))))

    def keep(self, start: Weights, change: Weights) -> Weights:
        """Keep the own part of a whole model that training changed; returns the change of the shared part."""
        values = torch.from_numpy(self._division.own_of(start + change))
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_synced(self._path, save({_NAME: values}), mode=0o600)
        return self._division.shared_of(change)

    def _initial(self) -> Weights:
        return self._division.own_of(flatten(build_model(self._study)))

    def _read(self) -> Weights:
        try:
            values: npt.NDArray[np.float32] = load(self._path.read_bytes())[_NAME].numpy()
        except (SafetensorError, KeyError):
            values = np.zeros(0, np.float32)
        if values.shape != (int(self._division.own.sum()),):
            raise FileError(
                "is not this study's own layers of this hospital",
                where=str(self._path),
                fix="restore it from a backup, or remove it: the layers then begin again",
            )
        return values
