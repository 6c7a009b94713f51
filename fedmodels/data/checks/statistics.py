"""The few statistics that the checks stand on."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, poisson, rankdata

FALSE_ALARM = 0.01
"""Chance that any one of a family of comparisons on data without the fault raises its alarm."""

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]


def auroc(score: Floats, positive: Flags) -> float:
    """Probability that a positive scores above a negative, ties counting one half (Hanley & McNeil, 1982).

    score, positive: [n]; both classes occur.
    """
    first, second = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(score)
    return float((ranks[positive].sum() - first * (first + 1) / 2) / (first * second))


def auroc_variance(theta: float, first: int, second: int) -> float:
    """Variance of an estimated AUROC whose true value is theta, with so many records of each class.

    Hanley & McNeil (1982) with both sizes replaced by their mean where they act as one, as in method 5 of Newcombe,
    "Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2" (2006).
    """
    size = (first + second) / 2 - 1
    spread = 1 + size * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    return theta * (1 - theta) * spread / (first * second)


def auroc_lower(estimate: float, first: int, second: int, comparisons: int) -> float:
    """Lower confidence limit of an AUROC, at `FALSE_ALARM` for `comparisons` of them together (Bonferroni).

    The variance is taken at the limit, not at the estimate, so that it means something at an estimate of 1, too.
    """
    z = float(norm.isf(FALSE_ALARM / max(comparisons, 1)))
    low, high = 0.0, estimate
    for _ in range(60):
        middle = (low + high) / 2
        if estimate - middle > z * math.sqrt(auroc_variance(middle, first, second)):
            low = middle
        else:
            high = middle
    return low


def wilson(part: float, whole: float, comparisons: int = 1) -> tuple[float, float]:
    """Score interval of a share (Wilson, 1927), two-sided at `FALSE_ALARM` for `comparisons` of them together."""
    if whole <= 0:
        return 0.0, 1.0
    z = float(norm.isf(FALSE_ALARM / (2 * max(comparisons, 1))))
    estimate, weight = part / whole, z * z / whole
    centre = (estimate + weight / 2) / (1 + weight)
    half = z * math.sqrt(estimate * (1 - estimate) / whole + weight / (4 * whole)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)


def most_by_chance(expected: float) -> int:
    """The count of rare events that a Poisson law of this mean exceeds with a probability of `FALSE_ALARM` at most."""
    return int(poisson.isf(FALSE_ALARM, expected)) if expected > 0 else 0


def uncertainty(records: float) -> float:
    """Half width of a 95 % interval of an accuracy measured on so many independent records, at its widest."""
    return 0.98 / math.sqrt(records) if records > 0 else 1.0
