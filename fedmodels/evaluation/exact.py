"""The metrics of `summary`, without bins: for whoever holds the predictions."""

import numpy as np
import numpy.typing as npt

from fedmodels.evaluation import scores
from fedmodels.evaluation.calibration import Working, calibrated


def exact_metrics(
    probabilities: npt.NDArray[np.floating], y: npt.NDArray[np.integer], working: Working | None = None
) -> dict[str, float]:
    """The metrics of `summary.summarise`, of the model's own probabilities and labels.

    probabilities [n, labels], not calibrated, y [n]; every record counts (take `counts.first_records` for one per
    patient). Undefined metrics are left out: auroc and auprc where there is one class only, all but n where there is no
    record.
    """
    labels, working = probabilities.shape[-1], working or Working()
    scores.check_predictions(probabilities, y, labels)
    p, n = probabilities.astype(np.float64), len(y)
    used = calibrated(p, working.temperature) if n else p
    heads = range(1, 2) if labels == 2 else range(labels)
    groups = [_groups(p[:, label], y == label) for label in heads]
    guess = scores.predicted(used, working.threshold) if n else np.zeros(0, np.intp)
    confusion = scores.confusion_matrix(y, guess, labels).astype(np.float64)
    shares = {
        **scores.at_threshold(confusion),
        "auroc": scores.mean(scores.auroc(group) for group in groups),
        "auprc": scores.mean(scores.average_precision(group) for group in groups),
        "sensitivity_at_specificity": scores.mean(scores.sensitivity_at(g, working.specificity) for g in groups),
        "ece": _calibration_error(p, y),
    }
    result = scores.published(float(n), _loss(p, y), shares)
    if working.temperature != 1.0 and n:
        told = scores.published(float(n), _loss(used, y), {"ece": _calibration_error(used, y)})
        result |= {f"{name}_calibrated": told[name] for name in ("ece", "loss")}
    return result


def _loss(p: scores.Floats, y: npt.NDArray[np.integer]) -> float | None:
    chosen = p[np.arange(len(y)), y].clip(min=np.finfo(np.float64).eps)
    return float(-np.log(chosen).mean()) if len(y) else None


def _groups(score: scores.Floats, positive: npt.NDArray[np.bool_]) -> scores.Floats:
    """Counts [2, distinct scores]."""
    distinct, group = np.unique(score, return_inverse=True)
    counts = np.bincount(positive * len(distinct) + group, minlength=2 * len(distinct))
    return counts.reshape(2, -1).astype(np.float64)


def _calibration_error(p: scores.Floats, y: npt.NDArray[np.integer]) -> float | None:
    """Of the second of two labels, else the mean over the labels."""
    bins, labels = scores.CALIBRATION_BINS, p.shape[1]

    def one(score: scores.Floats, positive: npt.NDArray[np.bool_]) -> float | None:
        group = np.minimum((score * bins).astype(np.intp), bins - 1)
        positives = np.bincount(group, weights=positive, minlength=bins).astype(np.float64)
        expected = np.bincount(group, weights=score, minlength=bins).astype(np.float64)
        return scores.calibration_error(positives, expected, float(len(score)))

    return scores.mean(one(p[:, label], y == label) for label in (range(1, 2) if labels == 2 else range(labels)))
