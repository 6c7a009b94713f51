"""The formulas of the metrics, on counts: shared by `counts` (histograms of many hospitals) and `exact` (one data set).

Binary quantities take counts [2, groups]: row 0 the negative, row 1 the positive records, columns groups of equal score
in ascending order. Counts may carry noise: they may be negative and fractional, and are never clipped, because clipping
would add a bias that grows with the number of empty groups. What is undefined (fewer than one record of a class) is
None, and a mean over classes is over those for which it is defined.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fedmodels.errors import DataError

Floats = npt.NDArray[np.float64]
CALIBRATION_BINS = 16
_ROUNDING = 1e-12


def auroc(counts: Floats) -> float | None:
    """Probability that a positive scores above a negative, ties counting one half (Hanley & McNeil, 1982).

    Numerator and denominator are sums of products of a positive and a negative count, so that independent noise of mean
    zero leaves the expectation of both as it is.
    """
    negatives, positives = counts
    below = np.cumsum(negatives) - negatives
    if negatives.sum() < 1 or positives.sum() < 1:
        return None
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


def average_precision(counts: Floats) -> float | None:
    """Area under the precision-recall curve as a step function, one step per group, without interpolation.

    A precision is clipped to [0, 1]: noise can make its denominator as small as it likes.
    """
    negatives, positives = counts
    if negatives.sum() < 1 or positives.sum() < 1:
        return None
    true = np.cumsum(positives[::-1])
    called = true + np.cumsum(negatives[::-1])
    precision = np.divide(true, called, out=np.zeros_like(true), where=called >= 1).clip(0.0, 1.0)
    return float((positives[::-1] * precision).sum() / positives.sum())


def calibration_error(positives: Floats, expected: Floats, total: float) -> float | None:
    """Expected calibration error (Naeini et al., AAAI 2015) of one class's score.

    positives, expected: per calibration bin, the number of positive records and the sum of the scores.
    """
    return float(np.abs(positives - expected).sum() / total) if total >= 1 else None


def accuracy(confusion: Floats) -> float | None:
    """Share of the diagonal of a confusion matrix [true label, predicted label]."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total >= 1 else None


def balanced_accuracy(confusion: Floats) -> float | None:
    """Mean over the labels that occur of the share of their records that are predicted to have them."""
    records = confusion.sum(1)
    occurs = records >= 1
    return mean((np.diag(confusion)[occurs] / records[occurs]).clip(0.0, 1.0)) if occurs.any() else None


def at_threshold(confusion: Floats) -> dict[str, float | None]:
    """What follows from a confusion matrix; sensitivity and specificity of two labels, the second one positive."""
    shares = {
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
    }
    if len(confusion) == 2:
        negatives, positives = confusion.sum(1)
        shares["sensitivity"] = float(confusion[1, 1] / positives) if positives >= 1 else None
        shares["specificity"] = float(confusion[0, 0] / negatives) if negatives >= 1 else None
    return shares


def sensitivity_at(counts: Floats, specificity: float) -> float | None:
    """The largest share of the positive records from some group on, of the negative ones at most 1 - specificity."""
    negatives, positives = counts
    if negatives.sum() < 1 or positives.sum() < 1:
        return None
    called = np.cumsum(negatives[::-1])[::-1] / negatives.sum()
    found = np.cumsum(positives[::-1])[::-1] / positives.sum()
    return float(np.append(found[called <= 1.0 - specificity + _ROUNDING], 0.0).max())


def macro_f1(confusion: Floats) -> float | None:
    """Mean F1 score over the labels that occur as a true or a predicted one."""
    both = confusion.sum(0) + confusion.sum(1)
    occurs = both >= 1
    return mean((2 * np.diag(confusion)[occurs] / both[occurs]).clip(0.0, 1.0)) if occurs.any() else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def published(n: float, loss: float | None, shares: dict[str, float | None]) -> dict[str, float]:
    """The result of an evaluation: the shares that are defined, cut to [0, 1]; n and the loss, cut at 0."""
    result = {"n": max(0.0, n)}
    result |= {name: min(1.0, max(0.0, value)) for name, value in shares.items() if value is not None}
    return result if loss is None else result | {"loss": max(0.0, loss)}


def check_predictions(probabilities: npt.NDArray[np.floating], y: npt.NDArray[np.integer], labels: int) -> None:
    """`DataError` unless probabilities are [n, labels] distributions and y are [n] labels."""
    if probabilities.shape != (len(y), labels) or y.ndim != 1:
        raise DataError(
            f"predictions of shape {probabilities.shape} do not match {len(y)} records of {labels} labels",
            fix="use the model and the labels of the same study",
        )
    sums = probabilities.sum(1, dtype=np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all() or not np.allclose(sums, 1.0, rtol=0, atol=1e-3):
        raise DataError(
            "predictions are not probabilities that sum to 1",
            fix="look whether the training diverged, and lower `training.learning_rate`",
        )
    if ((y < 0) | (y >= labels)).any():
        raise DataError("a label is not one of the study's", fix="correct the label column of the data binding")


def predicted(probabilities: npt.NDArray[np.floating], threshold: float = 0.5) -> npt.NDArray[np.intp]:
    """[n] predicted labels: the most probable one; of two labels, the second from a probability of `threshold` on."""
    choice = probabilities[:, 1] >= threshold if probabilities.shape[1] == 2 else probabilities.argmax(1)
    return choice.astype(np.intp)


def confusion_matrix(y: npt.NDArray[np.integer], guess: npt.NDArray[np.integer], labels: int) -> npt.NDArray[np.int64]:
    """[labels, labels] counts of (true label, predicted label)."""
    flat = np.bincount(y.astype(np.int64) * labels + guess, minlength=labels * labels)
    return flat.reshape(labels, labels).astype(np.int64)
