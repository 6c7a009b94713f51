"""95% intervals of metrics from counts: for the chance in who the test patients are, and for the noise.

Both follow from how a metric changes with each count (the delta method; for the AUROC this is DeLong's variance, DeLong
et al. 1988): a count of mean c has variance c over samples of patients and v from the noise, independently, so that a
metric of gradient g has sum c g^2 and sum v g^2. Sampling gives a Wilson score interval (Wilson 1927) of as many
records as have that variance, which stays within 0 and 1 and does not collapse at a perfect score; the noise is added
in quadrature to either side (Zou & Donner 2008).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedmodels.evaluation.scores import Floats

NORMAL = 1.959964  # 97.5% quantile
Interval = tuple[float, float]
_NOBODY = 1e-9  # a number of records that stands for none in a denominator


@dataclass(frozen=True)
class Spread:
    """A share's value on smoothed counts, its deviation over samples of `cases` records, and that of the noise."""

    share: float
    sampling: float
    drawn: float
    cases: float


def spread_of(share: float, gradient: Floats, counts: Floats, noise: Floats | float, cases: float) -> Spread:
    """gradient, counts (not negative), noise (variances): of the same shape, or one noise for all."""
    variance, drawn = float((counts * gradient**2).sum()), float((noise * gradient**2).sum())
    return Spread(share, float(np.sqrt(variance)), float(np.sqrt(drawn)), cases)


def together(spreads: Sequence[Spread]) -> Spread:
    """Of the mean of several labels' shares. The same patients are in all of them: their deviations add up at worst."""
    drawn = float(np.sqrt(np.sum([spread.drawn**2 for spread in spreads]))) / len(spreads)
    means = [float(np.mean([getattr(spread, name) for spread in spreads])) for name in ("share", "sampling", "cases")]
    return Spread(means[0], means[1], drawn, means[2])


def interval(value: float, spread: Spread) -> Interval:
    """Of a share whose value, noise included, is this."""
    within = spread.share * (1.0 - spread.share)
    records = within / spread.sampling**2 if within > 0 and spread.sampling > 0 else max(spread.cases, 1.0)
    centre = (value + NORMAL**2 / (2 * records)) / (1 + NORMAL**2 / records)
    root = math.sqrt(value * (1 - value) / records + (NORMAL / (2 * records)) ** 2)
    half = NORMAL / (1 + NORMAL**2 / records) * root
    return widened((centre - half, centre + half), value, spread.drawn)


def widened(sampled: Interval, value: float, drawn: float) -> Interval:
    """An interval of a share with noise of this deviation added."""
    low = value - float(np.hypot(value - sampled[0], NORMAL * drawn))
    high = value + float(np.hypot(sampled[1] - value, NORMAL * drawn))
    return max(0.0, low), min(1.0, high)


def auroc_gradient(head: Floats, area: float) -> Floats:
    """[2, bins] change of the AUROC with each count of a histogram [2, bins]."""
    negatives, positives = head
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    gradient: Floats = np.stack(
        [(above / positives.sum() - area) / negatives.sum(), (below / negatives.sum() - area) / positives.sum()]
    )
    return gradient


def average_precision_gradient(head: Floats, area: float) -> Floats:
    """[2, bins] change of the average precision with each count: its own precision, and that of all bins below it."""
    negatives, positives = head[:, ::-1]
    total = positives.sum()
    true, called = np.cumsum(positives), np.maximum(np.cumsum(positives + negatives), _NOBODY)
    fewer = (positives * true / called**2)[::-1].cumsum()[::-1]
    more = (positives * (called - true) / called**2)[::-1].cumsum()[::-1]
    gradient: Floats = np.stack([-fewer, more + true / called - area])[:, ::-1] / total
    return gradient


def ratio_gradient(part: Floats, whole: Floats, counts: Floats) -> tuple[float, Floats]:
    """(value, gradient) of sum(part * counts) / sum(whole * counts)."""
    size = float((whole * counts).sum())
    value = float((part * counts).sum()) / size
    return value, (part - value * whole) / size


def confusion_gradients(confusion: Floats) -> dict[str, tuple[float, Floats, float]]:
    """(value, gradient, cases) of each metric of `scores.at_threshold` for a matrix without negative counts."""
    labels, all_ = len(confusion), np.ones_like(confusion)
    cell = [np.outer(row, row) for row in np.eye(labels)]
    true = [np.outer(row, np.ones(labels)) for row in np.eye(labels)]
    used = [np.outer(np.ones(labels), row) for row in np.eye(labels)]
    occurs = [k for k in range(labels) if (confusion * true[k]).sum() >= 1]
    either = [k for k in range(labels) if (confusion * (true[k] + used[k])).sum() >= 1]
    recalls = [ratio_gradient(cell[k], true[k], confusion) for k in occurs]
    scores = [ratio_gradient(2 * cell[k], true[k] + used[k], confusion) for k in either]
    n = float(confusion.sum())
    found = {
        "accuracy": (*ratio_gradient(sum(cell, np.zeros_like(all_)), all_, confusion), n),
        "balanced_accuracy": (*_mean(recalls), n),
        "macro_f1": (*_mean(scores), n),
    }
    if labels == 2 and len(occurs) == 2:
        rows = confusion.sum(1)
        found |= {"sensitivity": (*recalls[1], float(rows[1])), "specificity": (*recalls[0], float(rows[0]))}
    return found


def _mean(parts: list[tuple[float, Floats]]) -> tuple[float, Floats]:
    return float(np.mean([value for value, _ in parts])), np.mean([gradient for _, gradient in parts], axis=0)
