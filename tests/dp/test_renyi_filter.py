"""The lifetime filter: valid against an adaptive adversary, and not much tighter than it has to be."""

import math

import numpy as np
import pytest

from fedmodels.dp.accounting import SampledGaussian, delta_upper, epsilon_upper
from fedmodels.dp.renyi_filter import RenyiFilter
from fedmodels.errors import PrivacyError

DELTA = 1e-5
STUDY = SampledGaussian(0.05, 1.0, 30)


def admitted(budget: RenyiFilter, study: SampledGaussian) -> list[SampledGaussian]:
    """Studies of one kind until the filter says no."""
    past: list[SampledGaussian] = []
    while budget.admits(tuple(past), study):
        past.append(study)
    return past


@pytest.mark.parametrize("study", [STUDY, SampledGaussian(0.2, 3.0, 20), SampledGaussian(1.0, 10.0, 5)])
@pytest.mark.parametrize("epsilon", [3.0, 8.0])
def test_what_is_admitted_stays_within_the_budget_and_uses_most_of_it(study: SampledGaussian, epsilon: float) -> None:
    past = admitted(RenyiFilter(epsilon, DELTA), study)
    assert 0.6 * epsilon < epsilon_upper(tuple(past), DELTA) <= epsilon


def test_studies_of_different_kinds_share_one_budget() -> None:
    budget = RenyiFilter(4.0, DELTA)
    large = SampledGaussian(0.1, 1.5, 60)
    assert budget.admits((), large)
    assert budget.admits((), STUDY)
    assert not budget.admits((large,), large)
    assert not budget.admits((STUDY,) * 4, large)
    assert budget.admits((large,), SampledGaussian(0.01, 5.0, 100))


def test_the_order_of_events_does_not_matter_and_nothing_costs_nothing() -> None:
    budget = RenyiFilter(4.0, DELTA)
    other = SampledGaussian(0.2, 2.0, 30)
    assert budget.admits((STUDY, other), STUDY) == budget.admits((other, STUDY), STUDY)
    full = tuple(admitted(budget, STUDY))
    assert budget.admits(full, SampledGaussian(1.0, 0.1, 0))
    assert not budget.admits(full, STUDY)


def test_a_study_without_noise_worth_the_name_is_never_admitted() -> None:
    assert not RenyiFilter(100.0, DELTA).admits((), SampledGaussian(1.0, 1e-3, 1))


def test_the_orders_watched_follow_from_the_budget_alone() -> None:
    """The theorem needs them fixed before the first event: no argument of `admits` can move them."""
    budget = RenyiFilter(3.0, DELTA)
    before = budget.orders
    admitted(budget, STUDY)
    assert budget.orders == before == RenyiFilter(3.0, DELTA).orders
    assert before[0] > before[1] > 1.0
    assert RenyiFilter(0.5, DELTA).orders[0] > before[0] > RenyiFilter(20.0, DELTA).orders[0]


def delta_of_an_adversary(budget: RenyiFilter, epsilon: float) -> tuple[float, float]:
    """Delta at `epsilon`, and its standard error, for one who goes on only while the loss is high, with less noise.

    The dominating pair of an unsampled Gaussian step is N(1, s^2) against N(0, s^2): its loss is normal.
    """
    draw = np.random.default_rng(3)
    losses, going, past = np.zeros(400_000), np.full(400_000, True), ()
    for noise in (6.0, 5.0, 4.0, 3.0, 2.5, 2.0, 2.0, 2.0):
        study = SampledGaussian(1.0, noise, 1)
        if budget.admits(past, study):
            past = (*past, study)
            losses[going] += 0.5 / noise**2 + draw.normal(size=int(going.sum())) / noise
            going &= losses > 0.0
    missing = np.maximum(0.0, -np.expm1(epsilon - losses))
    return float(missing.mean()), float(missing.std() / math.sqrt(len(missing)))


def test_an_adversary_who_chooses_by_results_does_not_get_past_delta() -> None:
    delta, error = delta_of_an_adversary(RenyiFilter(2.0, 1e-2), 2.0)
    assert 1e-4 < delta < 1e-2 - 5 * error


def test_the_same_adversary_gets_past_the_delta_of_a_filter_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    remembers = RenyiFilter.admits
    monkeypatch.setattr(RenyiFilter, "admits", lambda self, past, candidate: remembers(self, (), candidate))
    delta, error = delta_of_an_adversary(RenyiFilter(2.0, 1e-2), 2.0)
    assert delta - 5 * error > 1e-2


def test_it_is_no_tighter_than_the_exact_accountant() -> None:
    """Whatever one study the filter refuses or admits: admitted implies the exact delta is within the budget's."""
    budget = RenyiFilter(1.0, DELTA)
    for noise in np.linspace(0.6, 6.0, 28):
        study = SampledGaussian(0.05, float(noise), 50)
        if budget.admits((), study):
            assert delta_upper(study, 1.0) <= DELTA


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, DELTA), (-1.0, DELTA), (math.nan, DELTA), (math.inf, DELTA)])
def test_a_budget_that_is_no_positive_number_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(PrivacyError, match="lifetime budget"):
        RenyiFilter(epsilon, delta)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_outside_0_1_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError):
        RenyiFilter(1.0, delta)
