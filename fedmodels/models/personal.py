"""Layers that stay at a hospital: which weights of a model are exchanged, and which are each hospital's own.

Hospitals that differ in how they measure can keep the normalisation to themselves (FedBN, Li et al., ICLR 2021; here
of layers that never mix records), hospitals that differ in how they label the last layer (FedPer, Arivazhagan et al.
2019). Own layers begin as the study's seed makes them, are trained with the rest, and are in no message.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from fedmodels.errors import FileError

Kind = Literal["none", "norm", "head"]
Weights = npt.NDArray[np.float32]
_HEAD = "output"  # what every family calls its last layer


@dataclass(frozen=True, repr=False)
class Division:
    """own: [D] whether a coordinate of the flattened model (`weights.flatten`) is the hospital's own."""

    own: npt.NDArray[np.bool_]

    @property
    def shared(self) -> int:
        """The number of weights that are exchanged."""
        return int(len(self.own) - self.own.sum())

    def join(self, shared: Weights, own: Weights) -> Weights:
        """[D] the whole model."""
        whole = np.empty(len(self.own), np.float32)
        whole[~self.own], whole[self.own] = shared, own
        return whole

    def shared_of(self, whole: Weights) -> Weights:
        """The exchanged weights of a whole model."""
        return whole[~self.own]

    def own_of(self, whole: Weights) -> Weights:
        """The hospital's own weights of a whole model."""
        return whole[self.own]


def divide(model: nn.Module, kind: Kind) -> Division:
    """What `training.personal` means for a model, which needs no memory for its weights (`registry.skeleton`).

    `FileError` where the model has no such layers, or no others.
    """
    own = frozenset(_own(model, kind))
    if kind != "none" and not own:
        raise FileError(
            f"`training.personal` is `{kind}`, but the model has no normalisation",
            where="study.toml",
            fix='give it one with `model.sizes.norm`, or set `training.personal` to "head" or "none"',
        )
    named = sorted(model.named_parameters())
    if len(own) == len(named):
        raise FileError(
            f"`training.personal` is `{kind}`, and the model has no other layers: nothing would be learnt together",
            where="study.toml",
            fix="give the model hidden layers",
        )
    return Division(np.concatenate([np.full(p.numel(), name in own) for name, p in named]))


def _own(model: nn.Module, kind: Kind) -> list[str]:
    if kind == "none":
        return []
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if (name == _HEAD if kind == "head" else isinstance(layer, nn.GroupNorm | nn.LayerNorm))
    }
    return [f"{name}.{key}" for name, layer in layers.items() for key, _ in layer.named_parameters(recurse=False)]
