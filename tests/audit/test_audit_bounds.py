"""Lower bounds against known answers: published numbers, slow references, mechanisms whose epsilon is known."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from fedmodels.audit.bounds import (
    Guesses,
    from_guesses,
    from_trajectories,
    gaussian_epsilon,
    gaussian_f_dp,
    gaussian_refuted,
    guess,
    steinke,
    steinke_p_value,
)
from fedmodels.dp.accounting import SampledGaussian, epsilon_bounds
from fedmodels.errors import PrivacyError

DELTA = 1e-5


@pytest.mark.parametrize(
    ("guesses", "delta", "published"),
    [(Guesses(1000, 100, 75), 1e-4, 0.673), (Guesses(100_000, 1510, 1439), 1e-5, 2.675)],
)
def test_steinkes_bound_has_the_published_values(guesses: Guesses, delta: float, published: float) -> None:
    """Steinke et al. 2023, Appendix D and Section 7; rounded there in the one case, cut off in the other."""
    assert steinke(guesses, delta, 0.95) == pytest.approx(published, abs=1e-3)
    assert steinke(guesses, 0.0, 0.95) > published + 0.02  # the control: delta left out


def test_steinkes_p_value_is_a_sum_over_outcomes() -> None:
    """Theorem 5.2 written down once more, slowly, for every number of right guesses."""
    made, canaries, epsilon, delta = 12, 20, 0.7, 1e-3
    accuracy = math.exp(epsilon) / (1 + math.exp(epsilon))
    for right in range(made + 1):
        tail = sum(binom.pmf(v, made, accuracy) for v in range(right, made + 1))
        steepest = max(
            (sum(binom.pmf(v, made, accuracy) for v in range(right - i, right)) / i for i in range(1, right + 1)),
            default=0.0,
        )
        expected = min(1.0, tail + 2 * canaries * delta * steepest)
        assert steinke_p_value(Guesses(canaries, made, right), epsilon, delta) == pytest.approx(expected, abs=1e-12)


def test_randomised_response_is_bounded_below_its_epsilon_and_close_to_it() -> None:
    """Whoever reads randomised responses guesses right with e^eps / (1 + e^eps). 5% of 300 is 15, 22 is 2.9 errors."""
    draw, epsilon, canaries = np.random.default_rng(0), 1.0, 5000
    right = draw.binomial(canaries, math.exp(epsilon) / (1 + math.exp(epsilon)), 300)
    bounds = np.array([steinke(Guesses(canaries, canaries, int(r)), 0.0, 0.95) for r in right])
    assert (bounds > epsilon).sum() <= 22
    assert bounds.mean() > 0.93 * epsilon
    weaker = draw.binomial(canaries, math.exp(1.2) / (1 + math.exp(1.2)), 50)  # the control: claimed 1, is 1.2
    assert np.mean([steinke(Guesses(canaries, canaries, int(r)), 0.0, 0.95) > epsilon for r in weaker]) > 0.9


def reference_refuted(guesses: Guesses, mu: float, level: float) -> bool:
    """Algorithm 3 of Mahloujifar et al. 2024 as it is printed, with thresholds of plain floats."""
    part = guesses.made / guesses.canaries
    r, h = [0.0] * (guesses.right + 1), [0.0] * (guesses.right + 1)
    r[-1] = level * guesses.right / guesses.made * part
    h[-1] = level * (guesses.made - guesses.right) / guesses.made * part
    for i in range(guesses.right - 1, -1, -1):
        h[i] = max(h[i + 1], norm.cdf(norm.ppf(min(1.0, r[i + 1])) - mu))
        r[i] = r[i + 1] + i / (guesses.made - i) * (h[i] - h[i + 1])
    return bool(r[0] + h[0] > part)


def test_the_f_dp_recursion_is_the_published_one() -> None:
    mu = np.linspace(0.05, 2.5, 30)
    for guesses in (Guesses(1000, 800, 500), Guesses(300, 60, 55), Guesses(50, 50, 40)):
        slow = [reference_refuted(guesses, m, 0.05) for m in mu.tolist()]
        assert gaussian_refuted(guesses, mu, 0.05).tolist() == slow
        assert True in slow
        assert False in slow


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_gaussian_epsilon_is_that_of_the_accountant(mu: float) -> None:
    """Two independent ways: the closed form and the discretised privacy loss."""
    bounds = epsilon_bounds(SampledGaussian(1.0, 1.0 / mu, 1), DELTA)
    assert bounds.lower - 1e-3 <= gaussian_epsilon(mu, DELTA) <= bounds.upper + 1e-3
    assert gaussian_epsilon(0.0, DELTA) == gaussian_epsilon(-1.0, DELTA) == 0.0


def gaussian_scores(draw: np.random.Generator, mu: float, canaries: int) -> tuple[np.ndarray, np.ndarray]:
    """Log likelihood ratios of a mechanism that is mu-GDP exactly, about each canary independently."""
    inside = draw.random(canaries) < 0.5
    return mu * (draw.normal(size=canaries) + mu * inside - mu / 2), inside


@pytest.mark.parametrize("mu", [0.5, 1.5])
def test_bounds_of_gaussian_mechanisms_are_below_their_epsilon_and_in_order(mu: float) -> None:
    """200 runs at 95% confidence: 10 above the truth are expected of an exact bound, 19 are three errors more."""
    draw, truth = np.random.default_rng(1), gaussian_epsilon(mu, DELTA)
    found = []
    for _ in range(200):
        scores, inside = gaussian_scores(draw, mu, 4000)
        guessed = from_guesses(scores, inside, DELTA, 0.95)
        found.append([*(b.epsilon for b in guessed), from_trajectories(scores, inside, DELTA, 0.95).epsilon])
    bounds = np.array(found)
    assert ((bounds > truth).sum(axis=0) <= 19).all()
    steinkes, f_dp, trajectory = bounds.mean(axis=0)
    assert steinkes < f_dp < trajectory
    assert trajectory > 0.85 * truth
    assert (bounds > 0.5 * truth)[:, 2].all()  # the control: half of the epsilon claimed is always refuted


def test_an_attack_that_knows_nothing_bounds_nothing() -> None:
    draw = np.random.default_rng(2)
    scores, inside = draw.normal(size=4000), draw.random(4000) < 0.5
    bounds = (*from_guesses(scores, inside, DELTA, 0.99), from_trajectories(scores, inside, DELTA, 0.99))
    assert max(bound.epsilon for bound in bounds) < 0.1


def test_guesses_are_the_extreme_scores() -> None:
    scores, inside = np.array([3.0, -2.0, 0.1, 9.0, -5.0]), np.array([True, False, True, True, True])
    assert guess(scores, inside, 4) == Guesses(5, 4, 3)
    assert guess(scores, inside, 1) == Guesses(5, 0, 0)


@pytest.mark.parametrize(("made", "right"), [(0, 0), (10, 0), (10, 10)])
def test_few_and_one_sided_guesses_are_bounded(made: int, right: int) -> None:
    for bound in (steinke(Guesses(20, made, right), DELTA, 0.95), gaussian_f_dp(Guesses(20, made, right), DELTA, 0.95)):
        assert 0.0 <= bound < 10.0
    with pytest.raises(PrivacyError, match="not possible"):
        Guesses(20, made, made + 1)
