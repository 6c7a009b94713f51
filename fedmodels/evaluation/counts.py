"""Metrics from counts that hospitals can add up: no prediction of a single patient leaves a hospital.

Each hospital counts its test records in a vector of integers; the vectors of all hospitals are summed, with noise where
the study has privacy; the metrics follow from the sum. A patient enters with one record, the first of theirs, so that
adding or removing a patient changes the vector by at most `Layout.sensitivity` in L1.

Bins are finer towards 0 and 1 (equal in log-odds), because that is where a trained model's scores crowd. Sharp edge:
scores in one bin are tied. The metrics of a model whose probabilities all lie close together are coarse, its AUROC most
of all: off by at most half the share of pairs that the bins tie (see `exact` for what a hospital can compute).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.errors import DataError, RunError, UsageError
from fedmodels.evaluation import scores

Integers = npt.NDArray[np.int64]

_LOG_ODDS = 8.0


@dataclass(frozen=True)
class Layout:
    """The vector of counts for a number of labels.

    Two labels: counts [1, 2, bins] of the second label's probability, by true label. More: [labels, 2, bins] of each
    label's probability against the rest, then the confusion matrix [labels, labels] (true, predicted).

    bins: a multiple of 16. The edges are those of the 16 equal calibration bins, 0.5 among them, and bins - 16 more
    that are equally spaced in log-odds from -8 to 8.
    """

    labels: int
    bins: int = 256

    def __post_init__(self) -> None:
        if self.labels < 2:
            raise UsageError("an evaluation needs at least two labels")
        if self.bins < scores.CALIBRATION_BINS or self.bins % scores.CALIBRATION_BINS:
            raise UsageError(
                f"{self.bins} bins cannot be used for an evaluation",
                fix=f"choose a multiple of {scores.CALIBRATION_BINS}",
            )

    @property
    def edges(self) -> scores.Floats:
        """The bins - 1 inner edges, ascending; a score on an edge belongs to the bin above it."""
        calibration = np.arange(1, scores.CALIBRATION_BINS) / scores.CALIBRATION_BINS
        log_odds = np.linspace(-_LOG_ODDS, _LOG_ODDS, self.bins - scores.CALIBRATION_BINS)
        edges: scores.Floats = np.sort(np.concatenate([calibration, 1.0 / (1.0 + np.exp(-log_odds))]))
        return edges

    @property
    def middles(self) -> scores.Floats:
        """[bins] the middle of each bin."""
        edges = np.concatenate([[0.0], self.edges, [1.0]])
        middles: scores.Floats = (edges[1:] + edges[:-1]) / 2
        return middles

    @property
    def heads(self) -> int:
        """The number of one-against-the-rest histograms."""
        return 1 if self.labels == 2 else self.labels

    @property
    def length(self) -> int:
        """The number of counts in the vector."""
        return self.heads * 2 * self.bins + (0 if self.labels == 2 else self.labels**2)

    @property
    def sensitivity(self) -> int:
        """The largest L1 change of the vector when one patient is added or removed; each entry changes by at most 1."""
        return 1 if self.labels == 2 else self.labels + 1

    def pack(self, histograms: Integers, confusion: Integers) -> Integers:
        """The vector of [heads, 2, bins] and [labels, labels]; of two labels, the histogram holds the confusion."""
        parts = [histograms.ravel()] if self.labels == 2 else [histograms.ravel(), confusion.ravel()]
        return np.concatenate(parts)

    def split(self, vector: npt.NDArray[np.number]) -> tuple[scores.Floats, scores.Floats]:
        """(histograms [heads, 2, bins], confusion [labels, labels]) of a vector, or sum of vectors."""
        if vector.shape != (self.length,):
            raise RunError(
                f"evaluation counts of shape {vector.shape} instead of {(self.length,)}",
                fix="all parties must run the same study with the same version of fedmodels",
            )
        size = self.heads * 2 * self.bins
        values = vector.astype(np.float64)
        histograms = values[:size].reshape(self.heads, 2, self.bins)
        if self.labels == 2:
            return histograms, histograms[0].reshape(2, 2, self.bins // 2).sum(2)
        return histograms, values[size:].reshape(self.labels, self.labels)


def first_records(patients: Sequence[str] | npt.NDArray[np.str_]) -> npt.NDArray[np.intp]:
    """Ascending row numbers of each patient's first record."""
    return np.sort(np.unique(np.asarray(patients), return_index=True)[1])


def histogram(
    probabilities: npt.NDArray[np.floating],
    y: npt.NDArray[np.integer],
    patients: Sequence[str] | npt.NDArray[np.str_],
    layout: Layout,
) -> Integers:
    """One hospital's vector of counts [layout.length], int64.

    probabilities [n, labels], y [n] and patients [n] describe n records, of which only each patient's first is counted.
    """
    scores.check_predictions(probabilities, y, layout.labels)
    if len(patients) != len(y):
        raise DataError(f"{len(patients)} patient names for {len(y)} records", fix="report this adapter as a bug")
    rows = first_records(patients)
    p, y = probabilities[rows], y[rows]
    heads = range(1, 2) if layout.labels == 2 else range(layout.labels)
    histograms = np.stack([_one_against_rest(p[:, label], y == label, layout.edges) for label in heads])
    return layout.pack(histograms, scores.confusion_matrix(y, scores.predicted(p), layout.labels))


def _one_against_rest(
    score: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], edges: scores.Floats
) -> Integers:
    bins = len(edges) + 1
    column = np.searchsorted(edges, score.astype(np.float64), side="right")
    counts = np.bincount(positive * bins + column, minlength=2 * bins)
    return counts.reshape(2, bins).astype(np.int64)


def metrics(counts: npt.NDArray[np.number], layout: Layout) -> dict[str, float]:
    """The metrics of a vector of counts, summed over hospitals, with or without noise of mean zero.

    n: records (one per patient). accuracy and macro_f1: at 0.5 for two labels, else of the most probable label. auroc,
    auprc, ece: of the second label, or the mean over all labels, each against the rest (ece: class-wise calibration
    error, Kull et al., NeurIPS 2019, 16 bins). loss: negative log-likelihood, with each probability at the middle of
    its bin, so approximate and at most 8.7 per record. Undefined metrics are left out. Noise biases ece
    upwards, the other metrics hardly.
    """
    histograms, confusion = layout.split(counts)
    n = float(confusion.sum())
    middles = layout.middles
    shares = {
        "accuracy": scores.accuracy(confusion),
        "auroc": scores.mean(scores.auroc(head) for head in histograms),
        "auprc": scores.mean(scores.average_precision(head) for head in histograms),
        "macro_f1": scores.macro_f1(confusion),
        "ece": scores.mean(_calibration_error(head, middles) for head in histograms),
    }
    surprise = histograms[:, 1] @ -np.log(middles)
    if layout.labels == 2:
        surprise += histograms[:, 0] @ -np.log1p(-middles)
    return scores.published(n, float(surprise.sum()) / n if n >= 1 else None, shares)


def _calibration_error(head: scores.Floats, middles: scores.Floats) -> float | None:
    starts = np.searchsorted(middles, np.arange(scores.CALIBRATION_BINS) / scores.CALIBRATION_BINS)
    positives = np.add.reduceat(head[1], starts)
    expected = np.add.reduceat(head.sum(0) * middles, starts)
    return scores.calibration_error(positives, expected, float(head.sum()))
