"""All that is told of a vector of counts: metrics, intervals, binning errors, operating point, temperature.

Every step works on the sum that the coordinator publishes, so that nothing here costs privacy.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from fedmodels.evaluation import binning, scores, uncertainty
from fedmodels.evaluation.calibration import Temperature, Working, calibrated_score, enough, fit_temperature
from fedmodels.evaluation.counts import Layout
from fedmodels.evaluation.noise import Noise, smoothed
from fedmodels.evaluation.operating import Rule, best_cuts, chosen_cut, optimism, rates
from fedmodels.evaluation.uncertainty import Interval, Spread

_MOST = -float(np.log(np.finfo(np.float64).eps))  # log loss of a record at which `exact_metrics` stops
_CERTAIN = 6.0  # deviations of the noise in the number of records below which no interval means anything
_REPLICATES, _SEED = 200, 1  # public and fixed: the same counts give the same intervals


class Point(Struct, frozen=True):
    """The operating point of two labels. cut: the first bin in which the second is predicted; threshold: its lower
    edge, as a calibrated probability. rule: `half` where the study's own could not be followed."""

    rule: Rule
    cut: int
    threshold: float


class Summary(Struct, frozen=True):
    """metrics: see `summarise`. intervals: 95%, by name; none where noise hides how many records there are.
    binning_error: the most that bins can have moved a metric. optimism: how much a chosen threshold's values are too
    good, already subtracted from their intervals."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    binning_error: dict[str, float]
    optimism: dict[str, float]
    operating_point: Point | None
    calibration: Temperature

    def working(self, specificity: float) -> Working:
        """How the model is to be used that these counts are of."""
        threshold = self.operating_point.threshold if self.operating_point else 0.5
        return Working(self.calibration.temperature, threshold, specificity)


def summarise(counts: npt.NDArray[np.number], layout: Layout, rule: Rule, specificity: float, noise: Noise) -> Summary:
    """The summary of a vector of counts, summed over hospitals.

    metrics: n (records, one per patient); accuracy, balanced_accuracy, macro_f1, and of two labels sensitivity and
    specificity: of the predicted label, for two labels at the operating point. auroc, auprc, ece,
    sensitivity_at_specificity: of the second label, or the mean over all labels, each against the rest (ece:
    class-wise calibration error, Kull et al., NeurIPS 2019, 16 bins). loss: negative log-likelihood with each
    probability at the middle of its bin. ece_calibrated, loss_calibrated: at a temperature other than 1; of more
    than two labels approximate. Undefined metrics are left out. Noise biases ece upwards, the other metrics hardly.
    """
    return _Sum(counts, layout, specificity, noise).summary(rule)


def measure(counts: npt.NDArray[np.number], layout: Layout, specificity: float, noise: Noise, at: Summary) -> Summary:
    """The same for other counts of the same layout at the operating point and temperature of `at`."""
    return _Sum(counts, layout, specificity, noise).summary("half", at)


class _Sum:
    """A vector of counts taken apart."""

    def __init__(self, counts: npt.NDArray[np.number], layout: Layout, specificity: float, noise: Noise) -> None:
        self.counts, self.layout, self.specificity, self.noise = counts, layout, specificity, noise
        self.heads, _ = layout.split(counts)
        self.smooth = smoothed(self.heads)
        self.defined = [k for k, head in enumerate(self.smooth) if (head.sum(1) >= 1).all()]
        self.binary = layout.labels == 2

    @cached_property
    def replicates(self) -> scores.Floats:
        """[heads, n, 2, bins] counts drawn like these, noise included."""
        random = np.random.default_rng(_SEED)
        shape = (len(self.heads), _REPLICATES, *self.heads.shape[1:])
        return random.poisson(self.smooth[:, None], shape) + self.noise.draw(shape, random)

    def summary(self, rule: Rule, at: Summary | None = None) -> Summary:
        middles, noise = self.layout.middles, self.noise
        calibration = at.calibration if at else fit_temperature(self.heads, middles, noise)
        point = at.operating_point if at else self.point(rule, calibration.temperature) if self.binary else None
        cut = point.cut if point else None
        _, confusion = self.layout.split(self.counts, cut)
        too_good = {}
        if point and point.rule != "half" and not at:
            too_good = optimism(smoothed(self.replicates[0]), self.smooth[0], point.rule, self.specificity)
        metrics = self.metrics(confusion, calibration.temperature)
        intervals = self.intervals(metrics, cut, calibration.temperature, too_good)
        errors = self.errors(calibration.temperature)
        return Summary(
            metrics=metrics,
            intervals={name: intervals[name] for name in metrics if name in intervals},
            binning_error={name: errors[name] for name in metrics if name in errors},
            optimism=too_good,
            operating_point=point,
            calibration=calibration,
        )

    def intervals(
        self, metrics: dict[str, float], cut: int | None, temperature: float, too_good: dict[str, float]
    ) -> dict[str, Interval]:
        noisy_counts = self.heads[0].size if self.binary else self.layout.labels**2
        if metrics["n"] < max(1.0, _CERTAIN * np.sqrt(self.noise.variance * noisy_counts)):
            return {}
        found = {
            name: uncertainty.interval(min(1.0, max(0.0, metrics[name] - too_good.get(name, 0.0))), spread)
            for name, spread in self.spreads(cut).items() if name in metrics
        }  # fmt: skip
        return found | self.loss_interval(metrics) | self.calibration_intervals(metrics, temperature)

    def point(self, rule: Rule, temperature: float) -> Point:
        rule = rule if enough(self.heads[0], self.noise) else "half"
        cut = chosen_cut(self.heads[0], rule, self.specificity, self.noise)
        edge = np.array([self.layout.edges[cut - 1]])
        return Point(rule, cut, float(calibrated_score(edge, temperature)[0]))

    def metrics(self, confusion: scores.Floats, temperature: float) -> dict[str, float]:
        n, heads = float(confusion.sum()), self.heads
        middles = self.layout.middles
        shares = {
            **scores.at_threshold(confusion),
            "auroc": scores.mean(scores.auroc(head) for head in heads),
            "auprc": scores.mean(scores.average_precision(head) for head in heads),
            "sensitivity_at_specificity": scores.mean(scores.sensitivity_at(h, self.specificity) for h in self.smooth),
            "ece": scores.mean(_calibration_error(head, middles) for head in heads),
        }
        result = scores.published(n, self.loss(n), shares)
        if temperature != 1.0:
            scaled = calibrated_score(middles, temperature)
            after = {"ece": scores.mean(_calibration_error(head, scaled) for head in heads)}
            told = scores.published(n, self.loss(n, temperature), after)
            result |= {f"{name}_calibrated": told[name] for name in ("ece", "loss") if name in told}
        return result

    def loss(self, n: float, temperature: float = 1.0) -> float | None:
        return float((self.heads * self.surprise(temperature)).sum()) / n if n >= 1 else None

    def surprise(self, temperature: float = 1.0) -> scores.Floats:
        """[2, bins] what a record of each bin adds to the loss. Only the true label's head counts, of several."""
        middles = self.layout.middles
        odds = np.clip((np.log(middles) - np.log1p(-middles)) / temperature, -_MOST, _MOST)
        negative = np.logaddexp(0.0, odds) if self.binary else np.zeros_like(odds)
        return np.stack([negative, np.logaddexp(0.0, -odds)])

    def spreads(self, cut: int | None) -> dict[str, Spread]:
        """Of the metrics that are shares, but those of calibration."""
        cells = np.ones((self.layout.labels,) * 2)
        if self.binary:
            first = self.layout.bins // 2 if cut is None else cut
            cells[:, 0], cells[:, 1] = first, self.layout.bins - first
            head = self.smooth[0]
            confusion = np.stack([head[:, :first].sum(1), head[:, first:].sum(1)], axis=1)
        else:
            confusion = np.maximum(self.layout.split(self.counts)[1], 0.0)
        if confusion.sum() < 1:
            return {}
        found = {
            name: uncertainty.spread_of(value, gradient, confusion, self.noise.variance * cells, cases)
            for name, (value, gradient, cases) in uncertainty.confusion_gradients(confusion).items()
        }
        if self.defined:
            found |= {name: uncertainty.together(parts) for name, parts in self.head_spreads().items()}
        return found

    def head_spreads(self) -> dict[str, list[Spread]]:
        parts: dict[str, list[Spread]] = {"auroc": [], "auprc": [], "sensitivity_at_specificity": []}
        for k in self.defined:
            head, variance = self.smooth[k], self.noise.variance
            fewest, positives = float(head.sum(1).min()), float(head[1].sum())
            area, precision = scores.auroc(head) or 0.0, scores.average_precision(head) or 0.0
            by_area = uncertainty.auroc_gradient(head, area)
            by_precision = uncertainty.average_precision_gradient(head, precision)
            parts["auroc"].append(uncertainty.spread_of(area, by_area, head, variance, fewest))
            parts["auprc"].append(uncertainty.spread_of(precision, by_precision, head, variance, positives))
            parts["sensitivity_at_specificity"].append(self.sensitivity_spread(k, positives))
        return parts

    def sensitivity_spread(self, k: int, positives: float) -> Spread:
        """From replicates: the threshold is chance, too, and smoothing noisy counts has a bias."""
        share = scores.sensitivity_at(self.smooth[k], self.specificity) or 0.0
        replicates = smoothed(self.replicates[k])
        cuts = best_cuts(replicates, "specificity", self.specificity) - 1
        found = rates(replicates)[0][np.arange(len(cuts)), cuts]
        error = float(np.sqrt(np.mean((found - share) ** 2)))
        if not self.noise.variance:
            return Spread(share, error, 0.0, positives)
        return Spread(share, 0.0, error, positives)

    def loss_interval(self, metrics: dict[str, float]) -> dict[str, Interval]:
        if "loss" not in metrics:
            return {}
        n, loss, weights = metrics["n"], metrics["loss"], self.surprise()
        sampling = float((self.smooth * (weights - loss) ** 2)[:, 0 if self.binary else 1 :].sum())
        if self.binary:
            noisy = float(((weights - loss) ** 2).sum())
        else:  # n is of counts that are not in the histograms
            noisy = len(self.heads) * float((weights**2).sum()) + loss**2 * self.layout.labels**2
        half = uncertainty.NORMAL * float(np.sqrt(sampling + self.noise.variance * noisy)) / n
        return {"loss": (max(0.0, loss - half), loss + half)}

    def calibration_intervals(self, metrics: dict[str, float], temperature: float) -> dict[str, Interval]:
        found = {}
        for name, scale in {"ece": 1.0, "ece_calibrated": temperature}.items():
            if name in metrics:
                middles = calibrated_score(self.layout.middles, scale)
                errors = np.array([_calibration_spread(head, middles, self.noise.variance) for head in self.smooth])
                below, above = errors.mean(0).tolist()
                found[name] = (max(0.0, metrics[name] - below), min(1.0, metrics[name] + above))
        return found

    def errors(self, temperature: float) -> dict[str, float]:
        """Of the metrics for which bins matter; those at a threshold are exact, because thresholds are edges."""
        edges, middles, heads = self.layout.edges, self.layout.middles, self.smooth
        told = [heads[k] for k in self.defined]
        n = float(heads[0].sum())
        found = {
            "ece": float(np.mean([binning.calibration_error_error(head, edges, middles) for head in heads])),
            "loss": binning.loss_error(heads, edges, middles, n),
        }
        if told:
            found["auroc"] = float(np.mean([binning.auroc_error(head) for head in told]))
            found["auprc"] = float(np.mean([binning.average_precision_error(head) for head in told]))
            found["sensitivity_at_specificity"] = float(
                np.mean([binning.sensitivity_at_error(head, self.specificity) for head in told])
            )
        if self.binary and temperature != 1.0:
            found["ece_calibrated"] = binning.calibration_error_error(heads[0], edges, middles, temperature)
        return found


def _groups(scaled: scores.Floats) -> npt.NDArray[np.intp]:
    """The calibration bin of each calibrated middle."""
    return np.minimum((scaled * scores.CALIBRATION_BINS).astype(np.intp), scores.CALIBRATION_BINS - 1)


def _calibration_error(head: scores.Floats, scaled: scores.Floats) -> float | None:
    """scaled: [bins] the calibrated middle of each bin."""
    bins, group = scores.CALIBRATION_BINS, _groups(scaled)
    positives = np.bincount(group, weights=head[1], minlength=bins).astype(np.float64)
    expected = np.bincount(group, weights=head.sum(0) * scaled, minlength=bins).astype(np.float64)
    return scores.calibration_error(positives, expected, float(head.sum()))


def _calibration_spread(head: scores.Floats, scaled: scores.Floats, noise: float) -> tuple[float, float]:
    """How far below and above its estimate the calibration error may be; conservative.

    The estimate sums absolute values of d = D + e, normal e. It is too large on average, so that only its deviation,
    at most that of sum e, counts upwards; downwards sum |e| does, by the triangle inequality.
    """
    weights = (head[1] + noise) * (1 - scaled) ** 2 + (head[0] + noise) * scaled**2
    variances = np.bincount(_groups(scaled), weights=weights)
    total, all_ = max(float(head.sum()), 1.0), float(variances.sum())
    below = float(np.sqrt(variances).sum()) * np.sqrt(2 / np.pi) + uncertainty.NORMAL * np.sqrt((1 - 2 / np.pi) * all_)
    return float(below) / total, uncertainty.NORMAL * float(np.sqrt(all_)) / total
