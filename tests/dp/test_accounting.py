"""Epsilon against other accountants, closed forms and Monte Carlo; calibration lands on the private side."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.stats import norm

from fedmodels.dp.accounting import SampledGaussian, calibrate, delta_upper, epsilon_bounds, epsilon_upper
from fedmodels.errors import PrivacyError


def gaussian_delta(noise: float, steps: int, epsilon: float) -> float:
    """Exact delta of `steps` Gaussian mechanisms (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(steps) / noise
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 50), (2.0, 3)])
def test_without_sampling_the_bracket_holds_the_closed_form(noise: float, steps: int) -> None:
    bounds = epsilon_bounds(SampledGaussian(1.0, noise, steps), 1e-5)
    assert gaussian_delta(noise, steps, bounds.upper) <= 1e-5 <= gaussian_delta(noise, steps, bounds.lower)
    assert bounds.upper - bounds.lower < 0.01


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.1, 2.0, 200), (0.05, 0.7, 50)])
def test_pld_is_tighter_than_opacus_rdp_and_not_by_much(rate: float, noise: float, steps: int) -> None:
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    rdp = accountant.get_epsilon(1e-5)
    pld = epsilon_upper(SampledGaussian(rate, noise, steps), 1e-5)
    assert 0.7 * rdp < pld < rdp


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.1, 2.0, 200), (0.05, 0.7, 50)])
def test_opacus_prv_accountant_agrees(rate: float, noise: float, steps: int) -> None:
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    bounds = epsilon_bounds(SampledGaussian(rate, noise, steps), 1e-5)
    assert accountant.get_epsilon(1e-5) == pytest.approx(bounds.upper, abs=0.02)
    assert bounds.lower - 0.02 < accountant.get_epsilon(1e-5)


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.2, 1.5, 20), (0.05, 0.9, 60), (1.0, 6.0, 9)])
def test_composed_steps_agree_with_monte_carlo_in_both_directions(rate: float, noise: float, steps: int) -> None:
    """delta(epsilon) of the true privacy loss, summed over the steps of 200,000 runs; the worse direction decides."""
    delta = 1e-2
    bounds = epsilon_bounds(SampledGaussian(rate, noise, steps), delta)
    draws = np.random.default_rng(11)

    def estimate(epsilon: float, *, added: bool) -> tuple[float, float]:
        losses = np.zeros(200_000)
        for _ in range(steps):
            x = draws.normal(size=losses.size) * noise
            if not added:
                x += draws.random(losses.size) < rate
            step = np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2)))
            losses += -step if added else step
        missing = np.maximum(0.0, -np.expm1(epsilon - losses))
        return float(missing.mean()), float(missing.std() / math.sqrt(losses.size))

    for epsilon, sign in ((bounds.upper, 1), (bounds.lower, -1)):
        worst, error = max(estimate(epsilon, added=True), estimate(epsilon, added=False))
        assert sign * (worst - delta) < 4 * error
    worst, error = max(estimate(0.9 * bounds.lower, added=True), estimate(0.9 * bounds.lower, added=False))
    assert worst - 4 * error > delta  # the same draws would notice an epsilon that is a tenth too small


def test_one_sampled_step_agrees_with_monte_carlo() -> None:
    """delta(epsilon) of the dominating pair, estimated from 4 million draws, brackets the accountant's."""
    rate, noise, delta = 0.1, 0.8, 1e-3
    epsilon = epsilon_upper(SampledGaussian(rate, noise, 1), delta)
    draws = np.random.default_rng(7)
    x = draws.normal(size=4_000_000) * noise + (draws.random(4_000_000) < rate)
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2)))
    estimate = np.maximum(0.0, -np.expm1(epsilon - loss))
    error = 5 * estimate.std() / math.sqrt(len(estimate))
    assert estimate.mean() == pytest.approx(delta, abs=error + 1e-6)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 1.0), st.integers(1, 400), st.floats(0.3, 10.0))
def test_calibration_lands_on_the_private_side_and_close(rate: float, steps: int, target: float) -> None:
    noise = calibrate(rate, steps, target, 1e-5)
    assert epsilon_upper(SampledGaussian(rate, noise, steps), 1e-5) <= target
    assert epsilon_upper(SampledGaussian(rate, noise * 0.99, steps), 1e-5) > target


_EVENTS = st.builds(SampledGaussian, st.floats(0.01, 1.0), st.floats(0.8, 8.0), st.integers(1, 200))


@settings(max_examples=25, deadline=None)
@given(_EVENTS)
def test_more_steps_less_noise_and_more_sampling_never_cost_less(event: SampledGaussian) -> None:
    cost = epsilon_upper(event, 1e-5)
    slack = 1e-6 * cost + 1e-6  # of the accountant's Fourier transform
    assert epsilon_upper(replace(event, steps=event.steps + 1), 1e-5) >= cost - slack
    assert epsilon_upper(replace(event, noise_multiplier=0.95 * event.noise_multiplier), 1e-5) >= cost - slack
    assert epsilon_upper(replace(event, sampling_rate=min(1.0, 1.1 * event.sampling_rate)), 1e-5) >= cost - slack


@settings(max_examples=15, deadline=None)
@given(_EVENTS, st.floats(1e-8, 0.1))
def test_delta_at_epsilon_is_the_inverse_of_epsilon_at_delta(event: SampledGaussian, delta: float) -> None:
    epsilon = epsilon_upper(event, delta)
    assert delta_upper(event, epsilon) <= delta * (1 + 1e-6)
    assert epsilon == 0.0 or delta_upper(event, 0.98 * epsilon) > delta


@pytest.mark.parametrize(("noise", "steps", "epsilon"), [(1.0, 1, 2.0), (4.0, 50, 3.0)])
def test_delta_without_sampling_has_a_closed_form(noise: float, steps: int, epsilon: float) -> None:
    exact = gaussian_delta(noise, steps, epsilon)
    assert exact <= delta_upper(SampledGaussian(1.0, noise, steps), epsilon) < 1.01 * exact


@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf])
def test_an_epsilon_that_is_no_number_from_0_is_refused(epsilon: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        delta_upper(SampledGaussian(0.1, 1.0, 1), epsilon)


def test_studies_fixed_beforehand_compose_tighter_than_their_sum() -> None:
    one, two = SampledGaussian(0.1, 1.0, 50), SampledGaussian(0.02, 0.8, 300)
    together = epsilon_upper((one, two), 1e-5)
    assert max(epsilon_upper(one, 1e-5), epsilon_upper(two, 1e-5)) < together
    assert together < epsilon_upper(one, 5e-6) + epsilon_upper(two, 5e-6) - 1.0
    assert epsilon_upper((one, one), 1e-5) == pytest.approx(epsilon_upper(replace(one, steps=100), 1e-5), rel=1e-6)


def test_epsilon_grows_with_steps_and_zero_steps_cost_nothing() -> None:
    costs = [epsilon_upper(SampledGaussian(0.1, 1.0, steps), 1e-5) for steps in (0, 1, 10, 100)]
    assert costs[0] == 0.0
    assert costs == sorted(costs)
    assert delta_upper(SampledGaussian(0.1, 1.0, 0), 0.0) == 0.0


@pytest.mark.parametrize("event", [(0.0, 1.0, 1), (1.1, 1.0, 1), (0.1, 0.0, 1), (0.1, math.nan, 1), (0.1, 1.0, -1)])
def test_what_is_not_understood_is_refused(event: tuple[float, float, int]) -> None:
    with pytest.raises(PrivacyError):
        SampledGaussian(*event)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_outside_0_1_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError):
        epsilon_upper(SampledGaussian(0.1, 1.0, 1), delta)


def test_an_impossible_budget_is_refused() -> None:
    with pytest.raises(PrivacyError, match="no reasonable noise"):
        calibrate(1.0, 1000, 1e-6, 1e-9)
