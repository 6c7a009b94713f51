"""The coordinator's step on the averaged update: FedAvg, FedAdam or FedYogi (Reddi et al. 2021, Algorithm 2).

Pure: (state, model, update) -> (state, model). It sees only the secure sum, so it is post-processing of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.study import Training

_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Moments:
    """First and second moments of the updates, [D] each."""

    first: Vector
    second: Vector


def initial_moments(size: int) -> Moments:
    return Moments(np.zeros(size), np.full(size, _TAU**2))


def server_step(moments: Moments, model: Vector, update: Vector, training: Training) -> tuple[Moments, Vector]:
    """The next model from the weighted mean `update` of the hospitals' changes."""
    if training.server_optimiser == "fedavg":
        return moments, model + training.server_learning_rate * update
    first = _BETA1 * moments.first + (1.0 - _BETA1) * update
    square = update**2
    if training.server_optimiser == "fedadam":
        second = _BETA2 * moments.second + (1.0 - _BETA2) * square
    else:
        second = moments.second - (1.0 - _BETA2) * square * np.sign(moments.second - square)
    return Moments(first, second), model + training.server_learning_rate * first / (np.sqrt(second) + _TAU)
