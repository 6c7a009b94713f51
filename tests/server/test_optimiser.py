"""The coordinator's steps: against the papers, one coordinate at a time, and against torch."""

import math

import numpy as np
import pytest
import torch
from federations import tiny_study

from fedmodels.packing import MeanUpdate
from fedmodels.study import Study
from server.optimiser import ServerState, initial_state, server_step

UPDATES = [[0.5, -0.2], [0.1, 0.3], [-0.4, 0.01], [0.2, 0.2]]


def run(study: Study, updates: list[list[float]] = UPDATES, start: float = 0.0) -> ServerState:
    state = initial_state(np.full(2, start), study)
    for update in updates:
        state = server_step(state, MeanUpdate(np.array(update)), study)
    return state


def reference(kind: str, updates: list[float], rate: float) -> float:
    x, m, v, tau = 0.0, 0.0, 1e-6, 1e-3
    for update in updates:
        if kind == "fedavg":
            x += rate * update
            continue
        if kind == "fedavgm":
            m = 0.9 * m + update
            x += rate * m
            continue
        m = 0.9 * m + 0.1 * update
        if kind == "fedadam":
            v = 0.99 * v + 0.01 * update**2
        else:
            v -= 0.01 * update**2 * math.copysign(1.0, v - update**2)
        x += rate * m / (math.sqrt(v) + tau)
    return x


@pytest.mark.parametrize("kind", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_federated_steps_agree_with_the_paper(kind: str) -> None:
    study = tiny_study(f"training.server_optimiser={kind}", "training.server_learning_rate=0.1")
    expected = [reference(kind, [u[i] for u in UPDATES], 0.1) for i in range(2)]
    assert run(study).model == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_in_mode_distributed_a_step_is_that_of_pooled_training(optimiser: str, momentum: float, decay: float) -> None:
    """The coordinator's optimiser on mean gradients against torch's on the same ones; updates are minus gradients."""
    study = tiny_study(
        "privacy.mode=distributed", "training.local_steps=1", f"training.optimiser={optimiser}",
        "training.learning_rate=0.3", f"training.momentum={momentum}", f"training.weight_decay={decay}",
    )  # fmt: skip
    weights = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    if optimiser == "adam":
        reference = torch.optim.Adam([weights], lr=0.3, weight_decay=decay, betas=(0.9, 0.999), eps=1e-8)
    else:
        reference = torch.optim.SGD([weights], lr=0.3, momentum=momentum, weight_decay=decay)
    for update in UPDATES:
        weights.grad = -torch.tensor(update, dtype=torch.float64)
        reference.step()
    assert run(study, start=0.5).model == pytest.approx(weights.detach().numpy(), rel=1e-9)


def test_the_published_model_is_the_moving_average() -> None:
    study = tiny_study("training.average=0.5")
    models, average = [np.zeros(2)], np.zeros(2)
    for step, update in enumerate(UPDATES, 1):
        models.append(models[-1] + update)
        kept = min(0.5, step / (step + 9))
        average = kept * average + (1 - kept) * models[-1]
    assert run(study).average == pytest.approx(average, rel=1e-12)
    assert run(tiny_study()).average == pytest.approx(models[-1], rel=1e-12)


@pytest.mark.parametrize(("noise", "factor"), [(0.0, 1.0), (0.4, 1.0), (0.5, 1.0), (1.0, 0.5), (10.0, 0.05)])
def test_steps_that_would_be_mostly_noise_are_shortened(noise: float, factor: float) -> None:
    study = tiny_study("privacy.mode=distributed", "training.local_steps=1", "training.learning_rate=1.0")
    state = server_step(initial_state(np.zeros(2), study), MeanUpdate(np.ones(2), noise_norm=noise), study)
    assert state.model == pytest.approx([factor, factor])


def test_a_step_leaves_its_inputs_alone() -> None:
    study = tiny_study("training.server_optimiser=fedyogi", "training.average=0.9")
    state, update = initial_state(np.zeros(2), study), np.ones(2)
    server_step(state, MeanUpdate(update), study)
    assert not state.model.any()
    assert not state.first.any()
    assert not state.average.any()
    assert (update == 1).all()
