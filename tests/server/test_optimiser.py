"""The coordinator's step against a reading of Reddi et al. 2021, Algorithm 2, one coordinate at a time."""

import math

import numpy as np
import pytest
from federations import tiny_study

from server.optimiser import initial_moments, server_step


def reference(kind: str, updates: list[float], rate: float) -> float:
    x, m, v, tau = 0.0, 0.0, 1e-6, 1e-3
    for update in updates:
        if kind == "fedavg":
            x += rate * update
            continue
        m = 0.9 * m + 0.1 * update
        if kind == "fedadam":
            v = 0.99 * v + 0.01 * update**2
        else:
            v -= 0.01 * update**2 * math.copysign(1.0, v - update**2)
        x += rate * m / (math.sqrt(v) + tau)
    return x


@pytest.mark.parametrize("kind", ["fedavg", "fedadam", "fedyogi"])
def test_steps_agree_with_the_paper(kind: str) -> None:
    training = tiny_study(f"training.server_optimiser={kind}", "training.server_learning_rate=0.1").training
    updates = [[0.5, -0.2], [0.1, 0.3], [-0.4, 0.01]]
    moments, model = initial_moments(2), np.zeros(2)
    for update in updates:
        moments, model = server_step(moments, model, np.array(update), training)
    expected = [reference(kind, [u[i] for u in updates], 0.1) for i in range(2)]
    assert model == pytest.approx(expected, rel=1e-12)


def test_a_step_leaves_its_inputs_alone() -> None:
    training = tiny_study("training.server_optimiser=fedyogi").training
    moments, model, update = initial_moments(2), np.zeros(2), np.ones(2)
    server_step(moments, model, update, training)
    assert (moments.first == 0).all()
    assert (model == 0).all()
    assert (update == 1).all()
