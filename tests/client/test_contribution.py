"""The privacy rules where they are wired together: what a hospital's two vectors depend on, and what not."""

from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from federations import tiny_study

from client import contribution
from client.contribution import Task, counts_vector, own_results, update_vector
from client.training import train_private
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import evaluation_layout, unpack_counts, update_packing
from fedmodels.study import Hospital, Roster, Study

STUDY = tiny_study("training.learning_rate=1.0", "training.local_steps=1", "training.batch_rate=1.0")
ROSTER = Roster(tuple(Hospital(f"h{i}", f"{i:064x}", 100) for i in range(4)))
MODEL = flatten(build_model(STUDY))
QUIET = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)


def patients(count: int, records: int = 1, scale: float = 1.0) -> Dataset:
    draw = np.random.default_rng(0)
    n = count * records
    x = draw.normal(size=(n, feature_count(STUDY.input))).astype(np.float32) * scale
    names = np.repeat([f"p{i}" for i in range(count)], records)
    return Dataset(names, x, np.repeat(np.arange(count) % 2, records).astype(np.int64), np.full(n, TRAIN, np.uint8))


def step(data: Dataset, declared: int = 100, plan: Plan = QUIET, study: Study = STUDY) -> np.ndarray:
    return train_private(study, MODEL, data, plan, declared).delta


def test_the_divisor_is_the_declared_size_and_never_the_true_one() -> None:
    """One more patient adds that patient's clipped gradient; a divisor by the true number would scale all the rest."""
    everyone = patients(321)
    some = everyone.take(range(320))
    added = step(everyone) - step(some)
    assert np.linalg.norm(added) <= 1.0 / 100 + 1e-6
    assert step(some, declared=200) == pytest.approx(step(some) / 2, abs=1e-6)


def test_a_patient_scaled_by_a_million_moves_an_update_by_at_most_clip_over_divisor() -> None:
    """With the label for which the patient's loss is not flat: on the other side nothing would have to be clipped."""
    data = patients(20)
    x = np.concatenate([data.x[:-1], data.x[-1:] * 1e6])
    without = step(data.take(range(19)))

    def moved(label: int, plan: Plan = QUIET) -> float:
        extreme = replace(data, x=x, y=np.append(data.y[:-1], label))
        return float(np.linalg.norm(step(extreme, plan=plan) - without)) * 100

    wrong = max((0, 1), key=moved)
    assert 0.99 < moved(wrong) <= 1.0 + 1e-4
    assert moved(wrong, replace(QUIET, clip=1e12, noise_multiplier=1e-20)) > 100.0  # the control: no clip


def test_a_patient_with_many_records_moves_an_update_no_more_than_one_with_a_single_record() -> None:
    """Sampling rows instead of patients would let fifty large records in at once."""
    many = patients(1, records=50, scale=100.0)
    norms = [np.linalg.norm(step(many)) for _ in range(5)]
    assert max(norms) <= 1.0 / 100 + 1e-6


def test_an_update_carries_the_noise_of_the_plan() -> None:
    """No patients at all: what is left is noise of deviation sigma * C / divisor in every coordinate."""
    none = patients(1).take([])
    plan = replace(QUIET, noise_multiplier=3.0, clip=2.0)
    draws = np.concatenate([step(none, plan=plan) for _ in range(60)])
    assert draws.std() == pytest.approx(3.0 * 2.0 / 100, rel=0.05)


def test_a_studys_own_plan_reaches_the_update() -> None:
    plan = plan_for(STUDY)
    assert plan is not None
    none = patients(1).take([])
    packing = update_packing(STUDY, ROSTER, MODEL.size)
    deltas = []
    for _ in range(60):
        vector = update_vector(STUDY, ROSTER, "h0", none, plan, task=Task(1, 4), model=MODEL)
        deltas.append(packing.unpack(vector, ("h0",)).update)
    assert np.std(deltas) == pytest.approx(plan.noise_multiplier * plan.clip / (plan.sampling_rate * 100), rel=0.05)


@pytest.mark.parametrize(("mode", "told"), [("local", False), ("none", True)])
def test_a_loss_is_told_without_privacy_only(mode: str, told: bool) -> None:
    study = msgspec.structs.replace(STUDY, privacy=msgspec.structs.replace(STUDY.privacy, mode=mode))
    vector = update_vector(study, ROSTER, "h0", patients(40), plan_for(study), task=Task(1, 4), model=MODEL)
    assert (update_packing(study, ROSTER, MODEL.size).unpack(vector, ("h0",)).loss > 0) == told


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_evaluation_counts_carry_discrete_laplace_noise_of_the_studys_epsilon(epsilon: float) -> None:
    study = tiny_study(f"privacy.evaluation_epsilon={epsilon}")
    counts, _ = own_results(study, patients(1).take([]), MODEL)
    assert not counts.any()
    draws = np.concatenate([unpack_counts(counts_vector(study, ROSTER, counts), ROSTER) for _ in range(100)])
    ratio = np.exp(-epsilon / evaluation_layout(study).sensitivity)
    assert draws.var() == pytest.approx(2 * ratio / (1 - ratio) ** 2, rel=0.1)


def test_evaluation_noise_is_scaled_to_the_sensitivity_of_several_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study("study.task=multiclass", 'study.labels=["a", "b", "c"]', "privacy.evaluation_epsilon=2.0")
    scales: list[Fraction] = []
    monkeypatch.setattr(
        contribution, "discrete_laplace", lambda count, scale, _: (scales.append(scale), np.zeros(count, np.int64))[1]
    )
    counts_vector(study, ROSTER, own_results(study, patients(6), flatten(build_model(study)))[0])
    assert scales == [Fraction(4, 2)]
