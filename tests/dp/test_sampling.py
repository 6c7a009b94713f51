"""Poisson sampling by patient: rates, variance, independence of the number of records."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, SeededSource, parts, passes
from fedmodels.errors import PrivacyError

PATIENTS = np.array(["a"] * 50 + ["b"] + ["c", "d"] * 3)


def counts(rate: float, steps: int) -> np.ndarray:
    sampler, source = PoissonSampler(PATIENTS, rate), SecureSource(bytes(32))
    return np.array([[np.sum(PATIENTS[sampler.draw(source)] == p) for p in "abcd"] for _ in range(steps)])


def test_a_patient_with_many_records_counts_as_much_as_one_with_a_single_record() -> None:
    taken = counts(0.3, 20_000)
    assert taken.max() == 1
    assert taken.mean(axis=0) == pytest.approx([0.3] * 4, abs=0.015)


def test_participation_has_the_variance_of_independent_draws() -> None:
    """Shuffled fixed batches would give every patient the same number of turns: variance near 0, not T q (1 - q)."""
    steps, rate = 100, 0.2
    sums = counts(rate, 300 * steps).reshape(300, steps, 4).sum(axis=1)
    assert sums.var(axis=0).mean() == pytest.approx(steps * rate * (1 - rate), rel=0.15)


def test_patients_are_drawn_independently_of_each_other() -> None:
    matrix = np.corrcoef(counts(0.3, 20_000).T)
    assert np.abs(matrix - np.eye(4)).max() < 0.03


def test_every_record_of_a_patient_has_its_turn() -> None:
    sampler, source = PoissonSampler(PATIENTS, 1.0), SecureSource(bytes(32))
    rows = np.concatenate([sampler.draw(source) for _ in range(2000)])
    assert np.bincount(rows, minlength=len(PATIENTS)).min() > 0
    assert len(sampler.draw(source)) == 4


def test_batches_may_be_empty_also_for_a_hospital_without_patients() -> None:
    assert len(PoissonSampler(np.array([], dtype=str), 0.5).draw(SecureSource())) == 0
    empties = [len(PoissonSampler(PATIENTS, 0.05).draw(SecureSource())) == 0 for _ in range(200)]
    assert any(empties)


def test_without_privacy_the_same_seed_gives_the_same_batches() -> None:
    one, two = (PoissonSampler(PATIENTS, 0.5).draw(SeededSource(1, 2)).tolist() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5])
def test_a_rate_outside_0_1_is_refused(rate: float) -> None:
    with pytest.raises(PrivacyError):
        PoissonSampler(PATIENTS, rate)


def test_a_patient_is_taken_with_the_rate_times_the_largest_of_their_shares() -> None:
    shares = np.where(PATIENTS == "a", 0.25, np.where(PATIENTS == "b", 0.5, 1.0))
    shares[np.flatnonzero(PATIENTS == "c")[0]] = 0.1  # the other records of c have 1
    sampler, source = PoissonSampler(PATIENTS, 0.4, shares), SecureSource(bytes(32))
    taken = np.zeros(4)
    for _ in range(20_000):
        taken += [np.sum(PATIENTS[sampler.draw(source)] == p) for p in "abcd"]
    assert taken / 20_000 == pytest.approx([0.1, 0.2, 0.4, 0.4], abs=0.015)
    assert taken.max() / 20_000 < 0.4 + 0.015  # nobody more often than what is accounted for


@pytest.mark.parametrize("shares", [np.full(57, 1.1), np.zeros(57), np.ones(3), np.full(57, np.nan), -np.ones(57)])
def test_a_sampler_that_the_accounted_rate_does_not_cover_is_refused(shares: np.ndarray) -> None:
    with pytest.raises(PrivacyError, match="more often"):
        PoissonSampler(PATIENTS, 0.2, shares)


# --- parts of a sample that are added up together --------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 300])
@pytest.mark.parametrize("most", [1, 8])
def test_everybody_is_in_one_part_and_no_part_is_too_large(count: int, most: int) -> None:
    found = list(parts(SeededSource(count).uniform(count), most))
    assert sorted(np.concatenate([*found, np.zeros(0, np.int64)]).tolist()) == list(range(count))
    assert all(0 < len(part) <= most and (np.diff(part) > 0).all() for part in found)
    assert count > most or len(found) == min(count, 1)


@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_passes_make_up_the_parts(at_once: int) -> None:
    tags = SeededSource(5).uniform(300)
    found: list[list[int]] = [[]]
    for places, last in passes(tags, 8, at_once):
        assert 0 < len(places) <= at_once
        found[-1] += places.tolist()
        if last:
            found.append([])
    assert [sorted(part) for part in found] == [*(part.tolist() for part in parts(tags, 8)), []]


def test_equal_tags_come_to_an_end() -> None:
    assert [part.tolist() for part in parts(np.full(3, 0.25), 2)] == [[0, 1, 2]]


def in_order(tags: np.ndarray, most: int) -> Iterable[np.ndarray]:
    return np.split(np.arange(len(tags)), range(most, len(tags), most))


def summed_anew(cut: Callable[[np.ndarray, int], Iterable[np.ndarray]], tags: np.ndarray, absent: int) -> int:
    """How many patients are in parts that are no longer the same without one."""
    names = np.delete(np.arange(len(tags)), absent)
    before = {frozenset(part.tolist()) for part in cut(tags, 8)}
    after = {frozenset(names[part].tolist()) for part in cut(np.delete(tags, absent), 8)}
    return sum(len(part) for part in before - after)


def test_without_a_patient_only_a_part_of_at_most_one_more_than_fit_is_summed_anew() -> None:
    tags = [SeededSource(seed).uniform(200) for seed in range(20)]
    assert max(summed_anew(parts, some, absent) for some in tags for absent in range(200)) == 9
    assert summed_anew(in_order, tags[0], 0) == 200
