"""How far the bins alone can move a metric: bounds that hold for every way the records can lie inside their bins.

They hold for exact counts. Of noisy counts they are estimates, taken from `noise.smoothed` histograms.
"""

import numpy as np
from scipy.special import digamma

from fedmodels.evaluation.calibration import calibrated_score
from fedmodels.evaluation.scores import CALIBRATION_BINS, Floats

_NOBODY = 1e-300  # stands for no record in a denominator
_SMALLEST = float(np.finfo(np.float64).eps)  # the probability at which `exact_metrics` stops


def auroc_error(head: Floats) -> float:
    """Half the share of the pairs of a positive and a negative record that a bin of [2, bins] ties."""
    negatives, positives = head
    pairs = positives.sum() * negatives.sum()
    return float((positives * negatives).sum() / (2 * pairs)) if pairs > 0 else 0.0


def average_precision_error(head: Floats) -> float:
    """The farthest that the average precision can be from that of the bins, its records in any order, tied or not.

    The worst order has a bin's negative records before its positive ones, the best has none of them before.
    """
    negatives, positives = head[:, ::-1]
    true_before, false_before = np.cumsum(positives) - positives, np.cumsum(negatives) - negatives
    false_after = false_before + negatives
    start = true_before + false_after
    worst = positives - false_after * (digamma(start + positives + 1) - digamma(start + 1))
    called = np.maximum(true_before + positives + false_before, _NOBODY)
    best = positives * (true_before + positives) / called
    binned = positives * (true_before + positives) / np.maximum(called + negatives, _NOBODY)
    total = max(float(positives.sum()), _NOBODY)
    return float(max((best - binned).sum(), (binned - worst).sum()) / total)


def calibration_error_error(head: Floats, edges: Floats, middles: Floats, temperature: float = 1.0) -> float:
    """Of the expected calibration error: scores anywhere in their bins, and in either group where a bin is in two."""
    low, high = _ends(edges, temperature)
    middle = calibrated_score(middles, temperature)
    off = head.sum(0) @ np.maximum(high - middle, middle - low)
    lowest, highest = (np.minimum(np.floor(side * CALIBRATION_BINS), CALIBRATION_BINS - 1) for side in (low, high))
    # An edge of a bin that is one of a group as well belongs to the bin above it.
    two_groups = lowest < np.where(high * CALIBRATION_BINS == highest, highest - 1, highest)
    moved = np.maximum(head[1] * (1.0 - low), head[0] * high)[two_groups].sum()
    return float((off + 2.0 * moved) / max(float(head.sum()), 1.0))


def loss_error(heads: Floats, edges: Floats, middles: Floats, n: float) -> float:
    """Of the mean log loss, whose largest value per record `exact_metrics` cuts at 36."""
    low, high = _ends(edges, 1.0)
    error = heads[:, 1].sum(0) @ _log_distance(low, middles, high)
    if len(heads) == 1:
        error += heads[0, 0] @ _log_distance(1.0 - high, 1.0 - middles, 1.0 - low)
    return float(error / max(n, 1.0))


def sensitivity_at_error(head: Floats, specificity: float) -> float:
    """The sensitivity that a threshold inside the bin below the chosen one might add."""
    negatives, positives = head
    if not (negatives.sum() and positives.sum()):
        return 0.0
    called = np.cumsum(negatives[::-1])[::-1] / negatives.sum()
    first = int((called > 1.0 - specificity + 1e-12).sum())  # the bins whose threshold is too low
    return float(positives[max(first - 1, 0)] / positives.sum()) if first else 0.0


def _ends(edges: Floats, temperature: float) -> tuple[Floats, Floats]:
    ends = calibrated_score(np.concatenate([[0.0], edges, [1.0]]), temperature)
    return ends[:-1], ends[1:]


def _log_distance(low: Floats, middle: Floats, high: Floats) -> Floats:
    """The most that the logarithms of a bin's scores are away from that of its middle."""
    lowest = np.maximum(low, _SMALLEST)
    return np.asarray(np.maximum(np.log(high / middle), np.log(middle / lowest)))
