"""The rules that make the promised number true, each on the real code and on a variant that breaks it.

Every test makes one check of what a hospital really trains or reads, and makes the same check again with the rule
broken, where it has to fail. Here: sampling, public constants, noise, sensitivity. `test_rules_of_data` has layers,
normalisation, vocabulary and the noise of evaluation counts; `test_rules_of_releases` that every upload is charged
before it leaves, and that evaluations are noisy sums over many hospitals.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from federations import tiny_study

from client import training
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp import gradients
from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.gradients import PrivateOptimizer
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, SeededSource, parts, passes
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Study

STUDY = tiny_study("training.learning_rate=1.0", "model.sizes={ hidden = [64] }")  # plain SGD: a step is -gradient
MODEL = flatten(build_model(STUDY))
DECLARED = 100
QUIET = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)
NOISY = replace(QUIET, noise_multiplier=3.0, clip=2.0)
KEY = bytes(32)


def patients(count: int, records: int = 1) -> Dataset:
    n = count * records
    x = np.random.default_rng(0).normal(size=(n, feature_count(STUDY.input))).astype(np.float32)
    names = np.repeat([f"p{i:04}" for i in range(count)], records)
    return Dataset(names, x, np.repeat(np.arange(count) % 2, records).astype(np.int64), np.full(n, TRAIN, np.uint8))


NOBODY = patients(1).take([])


def release(data: Dataset, plan: Plan = QUIET, declared: int = DECLARED, study: Study = STUDY) -> np.ndarray:
    """What one hospital's training round releases, times the divisor: the noisy clipped sum of one step."""
    start = MODEL if study is STUDY else flatten(build_model(study))
    return training.train_private(study, start, data, plan, declared).delta * (plan.sampling_rate * declared)


# --- 1: Poisson sampling of patients ------------------------------------------------------------------------------


class Shuffled(PoissonSampler):
    """Every patient once per epoch, in fixed batches: what most training loops do."""

    def __init__(self, names: np.ndarray, rate: float, shares: np.ndarray | None = None) -> None:
        super().__init__(names, rate, shares)
        self._size = round(rate * len(names))
        self._queue: list[int] = []
        self._draws, self._people = np.random.default_rng(1), len(names)

    def draw(self, source: object) -> np.ndarray:
        if len(self._queue) < self._size:
            self._queue = self._draws.permutation(self._people).tolist()
        rows, self._queue = self._queue[: self._size], self._queue[self._size :]
        return np.array(rows)


def participation_variance(monkeypatch: pytest.MonkeyPatch, kind: type[PoissonSampler]) -> float:
    """Variance over 150 patients of how often each was in one of 50 batches, in units of T q (1 - q)."""
    counts = np.zeros(150)

    class Counting(kind):  # type: ignore[misc, valid-type]
        def draw(self, source: Any) -> np.ndarray:
            rows = super().draw(source)
            np.add.at(counts, rows, 1)
            return rows

    monkeypatch.setattr(training, "PoissonSampler", Counting)
    release(patients(150), replace(QUIET, sampling_rate=0.2, steps_per_release=50, noise_multiplier=1.0))
    return float(counts.var() / (50 * 0.2 * 0.8))


def test_rule_1_patients_take_part_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error of the variance: 12%."""
    assert participation_variance(monkeypatch, PoissonSampler) == pytest.approx(1.0, abs=0.55)
    assert participation_variance(monkeypatch, Shuffled) < 0.1


def test_rule_1_a_patient_with_many_records_takes_part_as_often_as_one_with_a_single_record() -> None:
    """The control samples records: one of 50 records is then nearly always in."""

    def share_of_batches(names: np.ndarray) -> float:
        sampler, source = PoissonSampler(names, 0.1), SecureSource(KEY)
        return float(np.mean([bool((sampler.draw(source) < 50).any()) for _ in range(2000)]))

    names = patients(20, records=50).patients
    assert share_of_batches(names) == pytest.approx(0.1, abs=0.03)
    assert share_of_batches(np.arange(len(names)).astype(str)) > 0.9


def test_rule_1_an_empty_batch_takes_a_step_with_full_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def moves() -> bool:
        return bool(release(NOBODY, NOISY).std() == pytest.approx(6.0, rel=0.15))

    assert moves()
    monkeypatch.setattr(training.PrivateOptimizer, "step", lambda self: None)  # what skipping an empty batch does
    assert not moves()


# --- 2: q, C, step count and divisor are public constants --------------------------------------------------------


def constants(monkeypatch: pytest.MonkeyPatch, data: Dataset, train: Callable[[Dataset], object]) -> set[Any]:
    """Rate, clip, noise, divisor and number of steps that a hospital's round really uses."""
    seen: list[Any] = []
    steps = 0

    class Sampler(PoissonSampler):
        def __init__(self, names: np.ndarray, rate: float, shares: np.ndarray | None = None) -> None:
            super().__init__(names, rate, shares)
            seen.append(("rate", rate))

    class Optimizer(PrivateOptimizer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append(("divisor", self.expected_batch_size))
            seen.append(("noise", self.noise_multiplier * self.max_grad_norm))

        def step(self, closure: None = None) -> None:
            nonlocal steps
            steps += 1
            super().step(closure)

    monkeypatch.setattr(training, "PoissonSampler", Sampler)
    monkeypatch.setattr(training, "PrivateOptimizer", Optimizer)
    train(data)
    return {*seen, ("steps", steps)}


def test_rule_2_nothing_is_normalised_by_the_true_number_of_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    """320 or 321 patients: the same rate, clip, noise, divisor and steps; and each control tells them apart."""
    everyone, plan = patients(321), replace(NOISY, sampling_rate=0.1, steps_per_release=3)

    def tells_apart(train: Callable[[Dataset], object]) -> bool:
        one, two = (constants(monkeypatch, data, train) for data in (everyone, everyone.take(range(320))))
        assert len(one) == len(two) == 4
        return one != two

    assert not tells_apart(lambda data: release(data, plan))
    assert tells_apart(lambda data: release(data, plan, declared=len(data)))
    assert tells_apart(lambda data: release(data, replace(plan, sampling_rate=32 / len(data))))
    assert tells_apart(lambda data: release(data, replace(plan, noise_multiplier=960 / len(data))))
    assert tells_apart(lambda data: release(data, replace(plan, steps_per_release=len(data) // 107)))


def test_rule_2_one_more_patient_adds_only_its_own_clipped_gradient() -> None:
    """Everybody pulls one way, the last patient the other: divided by N, that moves a release by 2 C / N, not C / N."""
    same = np.repeat(patients(1).x, 321, axis=0)
    everyone = replace(patients(321), x=same, y=np.append(np.zeros(320, np.int64), 1))

    def moved(divisor: Callable[[Dataset], int]) -> float:
        one, two = (
            release(data, replace(QUIET, clip=0.05), divisor(data)) / divisor(data)
            for data in (everyone, everyone.take(range(320)))
        )
        return float(np.linalg.norm(one - two) * 320 / 0.05)

    assert moved(lambda data: 320) <= 1.0 + 1e-3
    assert moved(len) > 1.9


# --- 3: noise from a CSPRNG ----------------------------------------------------------------------------------------


def test_rule_3_releases_carry_the_noise_that_is_charged_to_within_one_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    def agrees(plan: Plan) -> bool:
        draws = np.concatenate([release(NOBODY, plan) for _ in range(-(-100_000 // MODEL.size))])
        assert draws.size >= 50_000
        event = NOISY.event(1)
        assert event == SampledGaussian(1.0, 3.0, 1)
        return bool(draws.std() == pytest.approx(event.noise_multiplier * NOISY.clip * (1 + 1 / 256), rel=0.01))

    assert agrees(NOISY)
    assert not agrees(replace(NOISY, noise_multiplier=0.97 * NOISY.noise_multiplier))
    add_noise = PrivateOptimizer.add_noise

    def forgets_the_clip(self: PrivateOptimizer) -> None:
        self.max_grad_norm = 1.0
        add_noise(self)

    monkeypatch.setattr(PrivateOptimizer, "add_noise", forgets_the_clip)
    assert not agrees(NOISY)


def noise_of(releases: int) -> np.ndarray:
    """[releases, ~5000] releases of hospitals without patients: nothing but noise."""
    wide = tiny_study("training.learning_rate=1.0", "model.sizes={ hidden = [400] }")
    return np.array([release(NOBODY, NOISY, study=wide) for _ in range(releases)])


def largest_correlation(noise: np.ndarray) -> float:
    return float(np.abs(np.corrcoef(noise) - np.eye(len(noise))).max())


def test_rule_3_noise_is_independent_between_hospitals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when every hospital seeds torch and numpy alike, as reproducible scripts do."""

    def after_seeding() -> np.ndarray:
        torch.manual_seed(1)
        np.random.seed(1)
        return noise_of(1)[0]

    assert largest_correlation(np.array([after_seeding() for _ in range(4)])) < 0.1
    with monkeypatch.context() as broken:
        broken.setattr(training, "SecureSource", lambda: SecureSource(KEY))  # the same seed at every hospital
        assert largest_correlation(noise_of(2)) > 0.99

    def from_torch(self: PrivateOptimizer) -> None:
        for p in self.params:
            p.grad = self.noise_multiplier * self.max_grad_norm * torch.randn(p.shape)

    def divided(self: PrivateOptimizer) -> None:
        from_torch(self)
        self.scale_grad()

    monkeypatch.setattr(PrivateOptimizer, "add_noise", divided)  # what Opacus does, in its secure mode too
    assert largest_correlation(np.array([after_seeding() for _ in range(2)])) > 0.99


def test_rule_3_every_step_has_fresh_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of independent noise add up to twice the deviation of one, of repeated noise to four times."""

    def growth() -> float:
        four = np.concatenate([release(NOBODY, replace(NOISY, steps_per_release=4)) for _ in range(10)])
        return float(four.std() / 6.0)

    assert growth() == pytest.approx(2.0, rel=0.1)
    add_noise = PrivateOptimizer.add_noise

    def repeated(self: PrivateOptimizer) -> None:
        self._source = SecureSource(KEY)
        add_noise(self)

    monkeypatch.setattr(PrivateOptimizer, "add_noise", repeated)
    assert growth() == pytest.approx(4.0, rel=0.1)


# --- 4: sensitivity --------------------------------------------------------------------------------------------------


def with_extreme_patient() -> Dataset:
    """20 patients; the last one's features are a million times too large, and on the wrong side of its label.

    On the right side the loss is exactly flat there, and a bound on the patient's gradient would say nothing.
    """
    data = patients(20)
    x = np.concatenate([data.x[:-1], data.x[-1:] * 1e6])
    for label in (0, 1):
        extreme = replace(data, x=x, y=np.append(data.y[:-1], label))
        if release(extreme.take([19])).any():
            return extreme
    raise AssertionError


def test_rule_4_a_record_scaled_by_a_million_moves_the_sum_by_at_most_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    extreme = with_extreme_patient()

    def moved() -> float:
        return float(np.linalg.norm(release(extreme) - release(extreme.take(range(19)))))

    assert 0.99 < moved() <= 1.0 + 1e-4
    monkeypatch.setattr(gradients, "clip_factors", lambda norms, clip: torch.ones_like(norms))
    assert moved() > 100.0


Cut = Callable[[np.ndarray, int], Any]


def patients_of_each(data: Dataset, tags: np.ndarray, cut: Cut) -> set[frozenset[str]]:
    """The patients of each part that a hospital adds up, where these are the tags."""
    seen: list[frozenset[str]] = []
    backward = training._backward

    def spy(model: torch.nn.Module, study: Study, batch: Dataset) -> float:
        seen.append(frozenset(batch.patients.tolist()))
        return backward(model, study, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "MOST_IN_SINGLE", 16)
        patch.setattr(training, "_backward", spy)
        patch.setattr(training, "passes", lambda drawn, most, _: ((p, True) for p in cut(tags[: len(drawn)], most)))
        training.gradient_sum(STUDY, MODEL, data, QUIET)
    assert sum(map(len, seen)) == len(data)
    return set(seen)


def test_rule_4_who_else_is_drawn_changes_one_part_of_a_sum() -> None:
    """Each part is rounded: were all of them others without a patient, so were all their rounding errors."""
    everyone, tags = patients(300), SeededSource(1).uniform(300)

    def summed_anew(cut: Cut) -> int:
        with_first = patients_of_each(everyone, tags, cut)
        without = patients_of_each(everyone.take(range(1, 300)), tags[1:], cut)
        return sum(map(len, with_first - without))

    assert summed_anew(parts) <= 17
    assert summed_anew(lambda drawn, most: np.split(np.arange(len(drawn)), range(most, len(drawn), most))) == 300


def test_rule_4_parts_are_drawn_anew_for_every_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(training, "passes", lambda tags, *most: seen.append(tags) or passes(tags, *most))
    for _ in range(2):
        training.gradient_sum(STUDY, MODEL, patients(50), QUIET)
    assert len(np.unique(np.concatenate(seen))) == 100


def test_rule_4_a_sum_is_the_same_however_many_patients_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone = patients(300)
    whole = training.gradient_sum(STUDY, MODEL, everyone, QUIET)
    monkeypatch.setattr(training, "physical_batch", lambda *_: 7)
    assert training.gradient_sum(STUDY, MODEL, everyone, QUIET) == pytest.approx(whole, abs=1e-4)


def test_rule_4_clipping_is_per_patient_and_not_of_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control clips a batch as a whole: one patient then decides what everybody's sum is."""
    extreme = with_extreme_patient()

    def others() -> float:
        """How far the others still move the sum beside an extreme patient."""
        return float(np.linalg.norm(release(extreme) - release(extreme.take([19]))))

    alone = float(np.linalg.norm(release(extreme.take(range(19)))))
    assert others() == pytest.approx(alone, rel=1e-3)
    monkeypatch.setattr(gradients, "clip_factors", lambda norms, clip: norms * 0 + clip / max(1e-9, float(norms.sum())))
    assert others() < 0.1 * alone
