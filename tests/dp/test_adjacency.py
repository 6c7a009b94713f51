"""Replaced patients and groups: closed forms, Monte Carlo, and what the generic conversions say."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from fedmodels.dp.accounting import SampledGaussian, delta_upper, epsilon_upper
from fedmodels.dp.adjacency import Guarantee, group_guarantee, group_upper, replace_one_upper
from fedmodels.errors import PrivacyError

DELTA = 1e-5


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, Theorem 8: the delta of a Gaussian mechanism of sensitivity mu deviations."""
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize(("noise", "steps"), [(3.0, 1), (8.0, 20)])
def test_without_sampling_both_have_a_closed_form(noise: float, steps: int) -> None:
    """Exchanging a patient moves a sum by 2 clips, adding k patients by k clips."""
    event = SampledGaussian(1.0, noise, steps)
    single = math.sqrt(steps) / noise
    exchanged, three = replace_one_upper(event, DELTA), group_upper(event, DELTA, 3)
    for epsilon, mu in ((exchanged, 2 * single), (three, 3 * single)):
        assert gaussian_delta(mu, epsilon) <= DELTA * (1 + 1e-6)
        assert gaussian_delta(mu, epsilon - 0.01) > DELTA


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 0.8), (0.3, 1.5)])
def test_exchanging_a_patient_agrees_with_monte_carlo(rate: float, noise: float) -> None:
    delta = 1e-3
    epsilon = replace_one_upper(SampledGaussian(rate, noise, 1), delta)
    draw = np.random.default_rng(5)
    x = draw.normal(size=4_000_000) * noise + (draw.random(4_000_000) < rate)

    def density(sign: int) -> np.ndarray:
        return 1 + rate * np.expm1((sign * 2 * x - 1) / (2 * noise**2))

    missing = np.maximum(0.0, 1.0 - math.exp(epsilon) * density(-1) / density(1))
    assert missing.mean() == pytest.approx(delta, abs=5 * missing.std() / 2000 + 1e-6)


@pytest.mark.parametrize("members", [2, 4])
def test_a_group_agrees_with_monte_carlo(members: int) -> None:
    """Every member adds one clip in the same direction, with a coin of its own."""
    rate, noise, delta = 0.2, 2.0, 1e-3
    epsilon = group_upper(SampledGaussian(rate, noise, 1), delta, members)
    draw = np.random.default_rng(6)
    x = draw.normal(size=2_000_000) * noise + draw.binomial(members, rate, 2_000_000)
    ratio = sum(binom.pmf(j, members, rate) * np.exp((2 * j * x - j * j) / (2 * noise**2)) for j in range(members + 1))
    missing = np.maximum(0.0, 1.0 - math.exp(epsilon) / ratio)
    assert missing.mean() == pytest.approx(delta, abs=5 * missing.std() / math.sqrt(2_000_000) + 1e-6)


@pytest.mark.parametrize("event", [SampledGaussian(0.05, 1.0, 100), SampledGaussian(0.5, 4.0, 30)])
def test_direct_bounds_lie_between_one_patients_and_the_generic_conversion(event: SampledGaussian) -> None:
    single, exchanged = epsilon_upper(event, DELTA), replace_one_upper(event, DELTA)
    pair, three = group_upper(event, DELTA, 2), group_upper(event, DELTA, 3)
    assert single < exchanged <= pair + 1e-3 < three
    for direct, members in ((exchanged, 2), (pair, 2), (three, 3)):
        # The conversion may start from any point of the curve; the best of these has to be above the direct bound.
        points = (Guarantee(e, delta_upper(event, e)) for e in np.linspace(0.2, 4.0, 20) * single)
        converted = [group_guarantee(point, members) for point in points]
        assert direct < min(result.epsilon for result in converted if result.delta <= DELTA)


def test_a_group_of_one_is_a_patient_and_groups_compose() -> None:
    events = (SampledGaussian(0.1, 1.0, 100), SampledGaussian(0.02, 2.0, 50))
    assert group_upper(events, DELTA, 1) == pytest.approx(epsilon_upper(events, DELTA), abs=1e-4)
    assert group_upper(events, DELTA, 2) > group_upper(events[:1], DELTA, 2)
    assert replace_one_upper(events, DELTA) > replace_one_upper(events[:1], DELTA)


def test_a_patient_at_two_hospitals_with_noise_of_their_own_is_better_off_than_in_one_sum() -> None:
    event = SampledGaussian(0.1, 1.0, 50)
    apart = epsilon_upper((event, event), DELTA)
    assert epsilon_upper(event, DELTA) < apart < group_upper(event, DELTA, 2)


def test_zero_steps_cost_nothing() -> None:
    nothing = SampledGaussian(0.1, 1.0, 0)
    assert replace_one_upper(nothing, DELTA) == group_upper(nothing, DELTA, 3) == 0.0


def test_known_answers_of_the_generic_conversion() -> None:
    assert group_guarantee(Guarantee(0.5, 0.0), 3) == Guarantee(1.5, 0.0)
    pair = group_guarantee(Guarantee(1.0, 1e-6), 2)
    assert pair.epsilon == 2.0
    assert pair.delta == pytest.approx((1 + math.e) * 1e-6)
    assert group_guarantee(Guarantee(0.0, 1e-6), 4).delta == pytest.approx(4e-6)
    assert group_guarantee(Guarantee(400.0, 1e-6), 2) == Guarantee(800.0, 1.0)
    assert group_guarantee(Guarantee(10.0, 1e-6), 3).delta == 1.0


@pytest.mark.parametrize("members", [0, -1])
def test_an_impossible_group_is_refused(members: int) -> None:
    with pytest.raises(PrivacyError, match="group"):
        group_upper(SampledGaussian(0.1, 1.0, 1), DELTA, members)
    with pytest.raises(PrivacyError, match="group"):
        group_guarantee(Guarantee(1.0, DELTA), members)


@pytest.mark.parametrize("single", [Guarantee(-1.0, 0.0), Guarantee(math.nan, 0.0), Guarantee(1.0, 2.0)])
def test_what_is_no_guarantee_is_refused(single: Guarantee) -> None:
    with pytest.raises(PrivacyError, match="no differential privacy"):
        group_guarantee(single, 2)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_outside_0_1_is_refused(delta: float) -> None:
    event = SampledGaussian(0.1, 1.0, 1)
    with pytest.raises(PrivacyError):
        replace_one_upper(event, delta)
    with pytest.raises(PrivacyError):
        group_upper(event, delta, 2)
