"""Metrics from counts that hospitals can add up: no prediction of a single patient leaves a hospital.

Each hospital counts its test records in a vector of integers; the vectors of all hospitals are summed, with noise where
the study has privacy; the metrics follow from the sum. A patient enters with one record, the first of theirs, so that
adding or removing a patient changes the vector by at most `Layout.sensitivity` in L1.

Bins are finer towards 0 and 1 (equal in log-odds), because that is where a trained model's scores crowd. Sharp edge:
scores in one bin are tied. The metrics of a model whose probabilities all lie close together are coarse, its AUROC most
of all: `binning` bounds by how much (see `exact` for what a hospital can compute).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.errors import DataError, RunError, UsageError
from fedmodels.evaluation import scores

Integers = npt.NDArray[np.int64]

_FINE, _LOG_ODDS = 128, 8.0
_LOWEST, _HIGHEST = -32.0, 16.0  # in single precision, a probability nearer to 1 is 1


@dataclass(frozen=True)
class Layout:
    """The vector of counts for a number of labels.

    Two labels: counts [1, 2, bins] of the second label's probability, by true label. More: [labels, 2, bins] of each
    label's probability against the rest, then the confusion matrix [labels, labels] (true, predicted).

    bins: a multiple of 16. The edges are those of the 16 equal calibration bins, 0.5 among them, and bins - 16 more
    that are equally spaced in log-odds from -8 to 8. Of 128 bins or more, a fifth of these goes on to -32 and 16: with
    many labels, a sure model gives most of them probabilities that far down. Measured on `chinese_triage` as it is
    trained (11 labels, 256 bins): AUROC 0.021 below the exact one with edges down to -16, 0.0009 with these.
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
        count = self.bins - scores.CALIBRATION_BINS
        beyond = count // 10 if self.bins >= _FINE else 0
        low = np.linspace(_LOWEST, -_LOG_ODDS, beyond + 1)[:-1]
        near = np.linspace(-_LOG_ODDS, _LOG_ODDS, count - 2 * beyond)
        high = np.linspace(_LOG_ODDS, _HIGHEST, beyond + 1)[1:]
        log_odds = np.concatenate([low, near, high])
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

    def split(self, vector: npt.NDArray[np.number], cut: int | None = None) -> tuple[scores.Floats, scores.Floats]:
        """(histograms [heads, 2, bins], confusion [labels, labels]) of a vector, or sum of vectors.

        cut: of two labels, the first bin in which the second one is predicted; the one above 0.5 if left out.
        """
        if vector.shape != (self.length,):
            raise RunError(
                f"evaluation counts of shape {vector.shape} instead of {(self.length,)}",
                fix="all parties must run the same study with the same version of fedmodels",
            )
        size = self.heads * 2 * self.bins
        values = vector.astype(np.float64)
        histograms = values[:size].reshape(self.heads, 2, self.bins)
        if self.labels == 2:
            cut = self.bins // 2 if cut is None else cut
            return histograms, np.stack([histograms[0, :, :cut].sum(1), histograms[0, :, cut:].sum(1)], axis=1)
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
