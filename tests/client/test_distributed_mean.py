"""What secure sums of mode `distributed` say on average: the clipped gradient of everybody's patients in one place."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from secure_sums import Hospitals, distributed_study, patients

from client import contribution
from client.training import gradient_sum
from fedmodels.data.dataset import Dataset
from fedmodels.dp.plan import Plan
from fedmodels.models.batches import to_tensors
from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import build_model
from fedmodels.models.weights import unflatten

STUDY = distributed_study()
PLAN = Plan(
    sampling_rate=0.5, clip=0.5, noise_multiplier=0.5, steps_per_release=1, releases=100, delta=1e-5, mode="distributed"
)


def ill(count: int, seed: int) -> Dataset:
    """All with the same label, so that their gradients add up."""
    data = patients(STUDY, count, seed)
    return replace(data, y=np.ones(count, np.int64))


PARTS = {f"h{i:02}": ill(count, i) for i, count in enumerate((10, 20, 40, 45))}


def clipped_gradient(record: Dataset, model: np.ndarray) -> np.ndarray:
    """[D] of one record by one backward pass in double precision, by name of parameter."""
    net = build_model(STUDY)
    unflatten(net, model)
    net = net.double()
    x, lengths = to_tensors(record, STUDY.input)
    loss_fn((), "sum")(net(x.double(), lengths), torch.from_numpy(record.y)).backward()
    gradient = np.concatenate([p.grad.numpy().ravel() for _, p in sorted(net.named_parameters())])
    return gradient * min(1.0, PLAN.clip / np.linalg.norm(gradient))


def largest_error(hospitals: Hospitals, rounds: int) -> float:
    """Over all coordinates, in standard errors of the mean of the opened gradients; the model stays as it is."""
    opened = np.array([hospitals.gradient(hospitals.opened(hospitals.vectors(PARTS))) for _ in range(rounds)])
    one_by_one = [
        clipped_gradient(data.take([row]), hospitals.model) for data in PARTS.values() for row in range(len(data))
    ]
    exact = np.sum(one_by_one, axis=0) / sum(hospitals.roster.sizes.values())
    assert np.linalg.norm(exact) > 0.05
    return float((np.abs(opened.mean(axis=0) - exact) / (opened.std(axis=0, ddof=1) / np.sqrt(rounds))).max())


def by_batch(*arguments: object) -> np.ndarray:
    """A hospital that makes its sum as large as if all of its declared patients had been there."""
    return gradient_sum(*arguments) * (100 / len(arguments[2]))  # type: ignore[arg-type]


def without_a_hospital(*arguments: object) -> np.ndarray:
    """The hospital of 45 patients adds noise alone."""
    return gradient_sum(*arguments) * (len(arguments[2]) < 45)  # type: ignore[arg-type]


def test_opened_gradients_are_the_pooled_clipped_gradient_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, clipping, encoding, masking and the public divisor together leave no bias that 100 rounds can see.

    Under Student's t with 99 degrees of freedom any of some 50 coordinates is beyond 6.5 by chance once in 10^7 runs.
    """
    hospitals = Hospitals(STUDY, plan=PLAN)
    assert largest_error(hospitals, 100) < 6.5
    broken: tuple[Callable[..., np.ndarray], ...] = (by_batch, without_a_hospital)
    for variant in broken:
        monkeypatch.setattr(contribution, "gradient_sum", variant)
        assert largest_error(hospitals, 20) > 6.5
