"""The metrics of `counts`, without bins: for whoever holds the predictions."""

import numpy as np
import numpy.typing as npt

from fedmodels.evaluation import scores


def exact_metrics(probabilities: npt.NDArray[np.floating], y: npt.NDArray[np.integer]) -> dict[str, float]:
    """n, accuracy, auroc, auprc, macro_f1, ece and loss as `counts.metrics` defines them, of probabilities and labels.

    probabilities [n, labels], y [n]; every record counts (take `counts.first_records` for one per patient). Undefined
    metrics are left out: auroc and auprc where there is one class only, all but n where there is no record.
    """
    labels = probabilities.shape[-1]
    scores.check_predictions(probabilities, y, labels)
    p, n = probabilities.astype(np.float64), len(y)
    heads = range(1, 2) if labels == 2 else range(labels)
    groups = [_groups(p[:, label], y == label) for label in heads]
    confusion = scores.confusion_matrix(y, scores.predicted(probabilities), labels).astype(np.float64)
    shares = {
        "accuracy": scores.accuracy(confusion),
        "auroc": scores.mean(scores.auroc(group) for group in groups),
        "auprc": scores.mean(scores.average_precision(group) for group in groups),
        "macro_f1": scores.macro_f1(confusion),
        "ece": scores.mean(_calibration_error(p[:, label], y == label) for label in heads),
    }
    chosen = p[np.arange(n), y].clip(min=np.finfo(np.float64).eps)
    return scores.published(float(n), float(-np.log(chosen).mean()) if n else None, shares)


def _groups(score: scores.Floats, positive: npt.NDArray[np.bool_]) -> scores.Floats:
    """Counts [2, distinct scores]."""
    distinct, group = np.unique(score, return_inverse=True)
    counts = np.bincount(positive * len(distinct) + group, minlength=2 * len(distinct))
    return counts.reshape(2, -1).astype(np.float64)


def _calibration_error(score: scores.Floats, positive: npt.NDArray[np.bool_]) -> float | None:
    bins = scores.CALIBRATION_BINS
    group = np.minimum((score * bins).astype(np.intp), bins - 1)
    positives = np.bincount(group, weights=positive, minlength=bins).astype(np.float64)
    expected = np.bincount(group, weights=score, minlength=bins).astype(np.float64)
    return scores.calibration_error(positives, expected, float(len(score)))
