"""Poisson sampling by patient: rates, variance, independence of the number of records."""

import numpy as np
import pytest

from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, SeededSource
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
