"""Epsilon against other accountants, closed forms and Monte Carlo; calibration lands on the private side."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy.stats import norm

from fedmodels.dp.accounting import SampledGaussian, calibrate, epsilon_bounds, epsilon_upper
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


def test_epsilon_grows_with_steps_and_zero_steps_cost_nothing() -> None:
    costs = [epsilon_upper(SampledGaussian(0.1, 1.0, steps), 1e-5) for steps in (0, 1, 10, 100)]
    assert costs[0] == 0.0
    assert costs == sorted(costs)


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
