"""Lower bounds on epsilon from one run with canaries, each a canary that is inside the training data or not by a coin.

`guesses` are bounds from how many memberships an attacker guesses right. They hold for any mechanism; their price is a
wide margin. `from_trajectories` reads the whole distribution of the canaries' scores and assumes its shape.
`fedmodels.audit.steps` goes furthest, and assumes most. A bound above the epsilon that is claimed says, with its
confidence, that the claim is false. A low bound says nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom, norm

from fedmodels.errors import PrivacyError

GUESSED = (0.01, 0.03, 0.1, 0.3)
"""Parts of all canaries that are guessed. Fixed before the run; the confidence is divided among them."""

_LARGEST = 1e4  # no bound is looked for beyond
_LARGEST_MU = 60.0
_CANDIDATES = 64

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bound:
    """With probability `confidence` over the run, the mechanism's epsilon at the study's delta is at least `epsilon`.

    assumption: what has to be true beside the audit itself.
    """

    name: str
    epsilon: float
    confidence: float
    assumption: str


@dataclass(frozen=True)
class Guesses:
    """An attacker's guesses. canaries: all of them, each inside with probability 1/2, independently; made: those of
    whom the attacker guessed whether they are inside; right: how often that was true."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise PrivacyError(f"{self.right} of {self.made} guesses about {self.canaries} canaries are not possible")


def guess(scores: Floats, inside: Flags, made: int) -> Guesses:
    """Guess "inside" for the made / 2 highest scores and "outside" for as many of the lowest; scores, inside: [k]."""
    half = made // 2
    order = np.argsort(scores)
    right = int(inside[order[len(order) - half :]].sum() + (~inside[order[:half]]).sum()) if half else 0
    return Guesses(len(scores), 2 * half, right)


def steinke_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The probability of so many right guesses under (epsilon, delta)-DP, at most.

    Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Theorem 5.2 and Corollary 5.4: the
    number of right guesses is dominated by Binomial(made, e^epsilon / (1 + e^epsilon)), but for a probability of
    2 * canaries * delta * max_i P[right > Binomial >= right - i] / i.
    """
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    chance = float(binom.sf(guesses.right - 1, guesses.made, accuracy))
    if delta and guesses.right:
        below = np.cumsum(binom.pmf(np.arange(guesses.right - 1, -1, -1), guesses.made, accuracy))
        steepest = float((below / np.arange(1, guesses.right + 1)).max())
        chance += 2.0 * guesses.canaries * delta * steepest
    return min(1.0, chance)


def steinke(guesses: Guesses, delta: float, confidence: float) -> float:
    """The largest epsilon that so many right guesses refute; 0 where they refute none."""
    return _largest_refuted(lambda epsilon: steinke_p_value(guesses, epsilon, delta) < 1.0 - confidence)


def _largest_refuted(refuted: Callable[[float], bool]) -> float:
    """The end of the interval from 0 in which `refuted` holds, from its own side, to within 1e-6."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2.0 * high
        if high > _LARGEST:
            return low
    while high - low > 1e-6 * max(1.0, high):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def gaussian_refuted(guesses: Guesses, mu: Floats, level: float) -> Flags:
    """Which of the hypotheses "the mechanism is mu-GDP" so many right guesses refute at `level`; mu: [c] > 0.

    Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run", Algorithm 3 for membership
    (alphabet of two) with f the trade-off function of two unit Gaussians mu apart (Dong, Roth and Su 2022): sums h of
    the probabilities of at least i right guesses bound those of i + 1 by f, from the observed number downwards; where
    they come to more than the part of canaries that is guessed, the observed number was less likely than `level`.
    """
    made, right = guesses.made, guesses.right
    if not made:
        return np.zeros(len(mu), np.bool_)
    part = made / guesses.canaries
    hits = np.full(len(mu), level * part * right / made)
    misses = np.full(len(mu), level * part * (made - right) / made)
    for i in range(right - 1, -1, -1):
        more = np.maximum(misses, ndtr(ndtri(np.minimum(hits, 1.0)) - mu))
        hits = hits + i / (made - i) * (more - misses)
        misses = more
    refuted: Flags = hits + misses > part
    return refuted


def gaussian_f_dp(guesses: Guesses, delta: float, confidence: float) -> float:
    """Epsilon at `delta` of the largest mu for which the guesses refute mu-GDP; 0 where they refute none."""
    low, high = 0.0, _LARGEST_MU
    for _ in range(3):
        mu = np.linspace(low, high, _CANDIDATES + 1)[1:]
        refuted = gaussian_refuted(guesses, mu, 1.0 - confidence)
        held = int(np.argmin(refuted)) if not refuted.all() else len(mu)
        low, high = (mu[held - 1] if held else low), (mu[held] if held < len(mu) else high)
    return gaussian_epsilon(float(low), delta) if low else 0.0


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of a mu-GDP mechanism at `delta`: Dong, Roth and Su 2022, Corollary 1. 0 for mu <= 0."""
    if mu <= 0.0:
        return 0.0

    def excess(epsilon: float) -> float:
        return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))) - delta

    if excess(0.0) <= 0.0:
        return 0.0
    return float(brentq(excess, 0.0, mu * (mu / 2 + 40.0), xtol=1e-9))


def from_guesses(scores: Floats, inside: Flags, delta: float, confidence: float) -> tuple[Bound, Bound]:
    """The bounds of Steinke et al. and of Mahloujifar et al., best of `GUESSED` guesses; scores, inside: [k]."""
    each = 1.0 - (1.0 - confidence) / len(GUESSED)
    every = [guess(scores, inside, round(part * len(scores))) for part in GUESSED]
    return (
        Bound("Steinke et al. 2023", max(steinke(g, delta, each) for g in every), confidence, "none"),
        Bound(
            "f-DP (Mahloujifar et al. 2024)", max(gaussian_f_dp(g, delta, each) for g in every), confidence,
            "trade-off between the two kinds of error as between Gaussians",
        ),
    )  # fmt: skip


def trajectory_mu(scores: Floats, inside: Flags, confidence: float) -> float:
    """A lower confidence bound on mu from scores that are Gaussian without the canary; scores, inside: [k].

    mu is the distance of the mean scores inside and outside in standard deviations outside, as between the log
    likelihood ratios of a mu-GDP mechanism, which have means +-mu^2/2 and deviation mu. Standard error by the delta
    method: that of the two means, and that of the deviation.
    """
    within, without = scores[inside], scores[~inside]
    if len(within) < 2 or len(without) < 2:
        return 0.0
    variance = float(without.var(ddof=1))
    if variance == 0.0:
        return _LARGEST_MU if within.mean() > without.mean() else 0.0
    mu = float(within.mean() - without.mean()) / math.sqrt(variance)
    error = within.var(ddof=1) / len(within) / variance + 1.0 / len(without) + mu**2 / (2.0 * len(without))
    return min(_LARGEST_MU, mu - float(ndtri(confidence)) * math.sqrt(error))


def from_trajectories(scores: Floats, inside: Flags, delta: float, confidence: float) -> Bound:
    """Epsilon by Gaussian differential privacy of all steps together, as in Nasr et al. 2023, "Tight Auditing of
    Differentially Private Machine Learning", with canaries of one run in place of runs.

    scores: [k] log likelihood ratios of each canary's whole trajectory. The bound stays below the truth where steps are
    few or rarely hit, because the true losses then have heavier tails than a Gaussian.
    """
    epsilon = gaussian_epsilon(trajectory_mu(scores, inside, confidence), delta)
    return Bound("GDP trajectory", epsilon, confidence, "scores of whole trajectories are Gaussian (many steps)")
