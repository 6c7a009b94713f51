"""The plan: what a study promises and what builds the mechanism are one value, also unit, adjacency and divisor."""

from dataclasses import fields, replace

import numpy as np
import pytest
from federations import DISTRIBUTED, tiny_study

from client.training import train_private
from fedmodels.data.dataset import Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import FileError, PrivacyError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import GradientPacking

QUIET = Plan(sampling_rate=0.5, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)
STUDY = tiny_study("training.learning_rate=1.0", "training.batch_rate=0.5")
MODEL = flatten(build_model(STUDY))


@pytest.mark.parametrize("settings", [(), DISTRIBUTED])
def test_a_plan_has_everything_that_its_event_is_true_for(settings: tuple[str, ...]) -> None:
    study = tiny_study(*settings)
    plan = plan_for(study)
    assert plan is not None
    assert (plan.unit, plan.adjacency) == (study.privacy.unit, study.privacy.adjacency)
    steps = (study.training.rounds + study.federation.max_retries) * study.training.local_steps
    assert plan.event(plan.releases) == SampledGaussian(study.training.batch_rate, plan.noise_multiplier, steps)
    assert {"sampling_rate", "clip", "noise_multiplier", "unit", "adjacency", "releases"} <= {
        f.name for f in fields(plan)
    }


@pytest.mark.parametrize(
    "other", [{"unit": "record"}, {"adjacency": "replace-one"}, {"unit": ""}, {"unit": None, "adjacency": None}]
)
def test_an_event_for_another_unit_or_adjacency_cannot_be_got(other: dict[str, str]) -> None:
    with pytest.raises(PrivacyError, match="nothing here is accounted for"):
        replace(QUIET, **other)
    with pytest.raises(FileError):
        tiny_study(*(f"privacy.{key}={value}" for key, value in other.items()))


def test_the_divisor_follows_from_rate_and_declared_size() -> None:
    assert QUIET.expected_batch(320) == 160.0
    for size in (0, -5):
        with pytest.raises(PrivacyError, match="public size"):
            QUIET.expected_batch(size)


def divided() -> tuple[float, float]:
    """What hospital and coordinator divide by: a sum of 1 becomes its inverse."""
    data = Dataset(
        np.array(["p"]), np.full((1, feature_count(STUDY.input)), 1e6, np.float32),
        np.zeros(1, np.int64), np.zeros(1, np.uint8),
    )  # fmt: skip
    whole = replace(QUIET, sampling_rate=1.0)
    moved = max(
        np.linalg.norm(train_private(STUDY, MODEL, replace(data, y=np.array([label])), whole, 100).delta)
        for label in (0, 1)
    )
    summed = replace(whole, mode="distributed", noise_multiplier=1.0)
    packing = GradientPacking(4, summed, {"a": 40, "b": 30, "c": 30}, 0, 3, None)
    total = packing.lattice.encode(np.array([1.0, 0.0, 0.0, 0.0]))[0]
    return 1.0 / float(moved), -1.0 / float(packing.unpack(total, ("a", "b", "c")).update[0])


def test_hospital_and_coordinator_divide_by_what_the_plan_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert divided() == pytest.approx((100.0, 100.0), rel=0.01)
    monkeypatch.setattr(Plan, "expected_batch", lambda self, patients: 3.0 * self.sampling_rate * patients)
    assert divided() == pytest.approx((300.0, 300.0), rel=0.01)
