"""The coordinator's steps, as pure functions (state, model, update) -> (state, model).

It sees only the secure sum, so that all of this is post-processing of it: FedAvg, with or without momentum, FedAdam and
FedYogi on the hospitals' mean change of the model (Reddi et al. 2021, Algorithm 2); in privacy mode `distributed`, SGD
with momentum or Adam on the mean gradient, as a private step on pooled data would be; and a moving average of the
models.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedmodels.packing import MeanUpdate
from fedmodels.study import Study, Training

_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3
_ADAM_BETA2, _ADAM_EPSILON = 0.999, 1e-8
_WARM_UP = 9  # rounds by which an average lags behind at first: round t is weighed with at least 9 / (t + 9)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class ServerState:
    """model: [D] current weights; average: [D] their moving average, which is what is published; first, second: [D]
    moments of the updates; steps taken."""

    model: Vector
    average: Vector
    first: Vector
    second: Vector
    steps: int = 0


def initial_state(model: Vector, study: Study) -> ServerState:
    adaptive = study.training.server_optimiser in ("fedadam", "fedyogi")
    second = np.full(model.size, _TAU**2) if adaptive else np.zeros(model.size)
    return ServerState(model, model, np.zeros(model.size), second)


def server_step(state: ServerState, mean: MeanUpdate, study: Study) -> ServerState:
    """The next state from what the hospitals sent on average: changes of the model, or minus gradients."""
    training = study.training
    if study.privacy.mode == "distributed":
        if training.optimiser == "adam":
            after = _adam(state, mean.update, training)
        else:
            after = _sgd(state, mean.update, training, _damping(mean.noise_norm, study.privacy.clip))
    else:
        after = _STEPS.get(training.server_optimiser, _adaptive)(state, mean.update, training)
    return replace(after, steps=state.steps + 1, average=_averaged(state, after.model, training.average))


def _averaged(state: ServerState, model: Vector, decay: float) -> Vector:
    if not decay:
        return model
    steps = state.steps + 1
    kept = min(decay, steps / (steps + _WARM_UP))
    return kept * state.average + (1.0 - kept) * model


def _fedavg(state: ServerState, update: Vector, training: Training) -> ServerState:
    return replace(state, model=state.model + training.server_learning_rate * update)


def _fedavgm(state: ServerState, update: Vector, training: Training) -> ServerState:
    """Server momentum (Hsu et al. 2019, FedAvgM)."""
    first = _BETA1 * state.first + update
    return replace(state, model=state.model + training.server_learning_rate * first, first=first)


_STEPS = {"fedavg": _fedavg, "fedavgm": _fedavgm}


def _adaptive(state: ServerState, update: Vector, training: Training) -> ServerState:
    first = _BETA1 * state.first + (1.0 - _BETA1) * update
    square = update**2
    if training.server_optimiser == "fedadam":
        second = _BETA2 * state.second + (1.0 - _BETA2) * square
    else:
        second = state.second - (1.0 - _BETA2) * square * np.sign(state.second - square)
    change = training.server_learning_rate * first / (np.sqrt(second) + _TAU)
    return replace(state, model=state.model + change, first=first, second=second)


def _damping(noise_norm: float, clip: float) -> float:
    """Shortens steps that would be mostly noise, so that one learning rate serves small and large epsilon.

    A mean of clipped gradients is at most C long; where noise is expected to be longer than C / 2, its part of a step
    is brought back to that. It follows from public constants alone. Measured on handwritten digits at ten hospitals
    with a learning rate of 0.5: accuracy at epsilon 1 from 0.86 to 0.89, unchanged at 3 and 8.
    """
    return min(1.0, clip / (2.0 * noise_norm)) if noise_norm else 1.0


def _sgd(state: ServerState, update: Vector, training: Training, damping: float) -> ServerState:
    """Polyak momentum and weight decay, as `torch.optim.SGD` with a learning rate times `damping`."""
    first = training.momentum * state.first + update - training.weight_decay * state.model
    return replace(state, model=state.model + damping * training.learning_rate * first, first=first)


def _adam(state: ServerState, update: Vector, training: Training) -> ServerState:
    """Kingma and Ba 2015, Algorithm 1, as `torch.optim.Adam`."""
    update = update - training.weight_decay * state.model
    first = _BETA1 * state.first + (1.0 - _BETA1) * update
    second = _ADAM_BETA2 * state.second + (1.0 - _ADAM_BETA2) * update**2
    steps = state.steps + 1
    scale = np.sqrt(second / (1.0 - _ADAM_BETA2**steps)) + _ADAM_EPSILON
    change = training.learning_rate * first / (1.0 - _BETA1**steps) / scale
    return replace(state, model=state.model + change, first=first, second=second)
