"""Black-box membership inference: who was in the training set, told from a model's probabilities alone.

LiRA (Carlini et al., S&P 2022) compares how sure the model is of a record with how sure models are that were trained
with it, and models that were trained without it; RMIA (Zarifzadeh et al., ICML 2024) needs few such shadow models.
Everything is per patient. What these attacks find is a leak; what they do not find may leak all the same.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.errors import UsageError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SMALLEST = 1e-12  # a probability below it is taken for it
_SHADOWS_OF_EACH_KIND = 2  # of LiRA: with one, nothing is known about the spread
_SMALLEST_VARIANCE = 1e-6


def confidence(probabilities: Floats, y: npt.NDArray[np.int64]) -> Floats:
    """[n] log(p / (1 - p)) of the probability p of the true label, from probabilities [n, labels] and labels y.

    1 - p is summed from the other labels, which keeps its digits where p is nearly 1 (Carlini et al., section IV-C).
    """
    rows = np.arange(len(y))
    true = probabilities[rows, y]
    others = probabilities.copy()
    others[rows, y] = 0.0
    result: Floats = np.log(np.maximum(true, _SMALLEST)) - np.log(np.maximum(others.sum(1), _SMALLEST))
    return result


def halves(shadows: int, patients: int, seed: int) -> Flags:
    """[shadows, patients] who is in the training set of each shadow model: every patient in exactly half of them.

    shadows: even and positive.
    """
    if shadows < 2 or shadows % 2:
        raise UsageError(
            f"{shadows} shadow models cannot be halved", where="--shadows", fix="use an even number, at least 2"
        )
    generator = np.random.default_rng(seed)
    ranks = generator.random((shadows, patients)).argsort(axis=0).argsort(axis=0)
    result: Flags = ranks < shadows // 2
    return result


def lira(target: Floats, shadows: Floats, inside: Flags) -> Floats:
    """[n] log-likelihood ratios, larger for members: the online attack of Carlini et al., section VI.

    target: [n] confidences of the audited model; shadows: [s, n] those of the shadow models; inside: [s, n] who was
    trained on, at least twice and at least twice not. One variance for all patients and each of the two hypotheses, as
    the authors do with few shadow models.
    """
    if min(inside.sum(0).min(), (~inside).sum(0).min()) < _SHADOWS_OF_EACH_KIND:
        raise UsageError("LiRA needs at least 4 shadow models", where="--shadows", fix="train more of them")
    trained, untrained = _gaussian(shadows, inside), _gaussian(shadows, ~inside)
    result: Floats = _log_density(target, *trained) - _log_density(target, *untrained)
    return result


def rmia(target: Floats, shadows: Floats, population: Flags) -> Floats:
    """[n] shares of the population against which a patient looks like a member (Zarifzadeh et al., section 3).

    The ratio of a patient is p / mean p over the shadow models, of which half were trained on them; it is compared with
    the ratio of each of the population, patients who are certainly no members, other than itself. The authors' factor
    gamma is 1: a larger one only merges neighbouring scores. Arguments as of `lira`; population: [n].
    """
    ratios = _probability(target) / _probability(shadows).mean(0)
    references = np.sort(ratios[population])
    if len(references) < 2:
        raise UsageError("RMIA needs at least two patients who are no members", fix="name data with test patients")
    below = np.searchsorted(references, ratios, side="right").astype(np.float64)
    scores: Floats = np.where(population, (below - 1.0) / (len(references) - 1), below / len(references))
    return scores


@dataclass(frozen=True, repr=False)
class Roc:
    """false, true: rates at every threshold, ascending from (0, 0) to (1, 1)."""

    false: Floats
    true: Floats
    members: int
    others: int

    @property
    def area(self) -> float:
        """Probability that a member scores higher than another, ties counted half: 0.5 if the scores say nothing."""
        return float(np.sum(np.diff(self.false) * (self.true[1:] + self.true[:-1]) / 2.0))

    def true_at(self, false: float) -> float | None:
        """Largest rate of members found at a false positive rate of at most this; None where it needs more others."""
        if false * self.others < 1.0:
            return None
        return float(self.true[self.false <= false].max())

    @property
    def deviations(self) -> float:
        """By how many standard deviations the area is above 0.5, where scores say nothing (Mann and Whitney 1947)."""
        spread = math.sqrt((self.members + self.others + 1) / (12.0 * self.members * self.others))
        return (self.area - 0.5) / spread

    @property
    def chance_of_top(self) -> float:
        """Chance that as many members are among the 1% highest scores if scores say nothing (hypergeometric tail).

        A leak about a few patients shows here long before it shows in the area. 1 where 1% is less than one patient.
        """
        total = self.members + self.others
        counts = self.true * self.members + self.false * self.others
        place = int(np.flatnonzero(counts <= total / 100.0 + 1e-9).max())
        drawn, found = round(counts[place]), round(self.true[place] * self.members)
        ways = sum(
            math.comb(self.members, k) * math.comb(self.others, drawn - k)
            for k in range(found, min(drawn, self.members) + 1)
        )
        return ways / math.comb(total, drawn)


def roc(scores: Floats, members: Flags) -> Roc:
    """The trade-off between members found and others accused; scores and members: [n], at least one of each kind."""
    positives, negatives = int(members.sum()), int((~members).sum())
    if not positives or not negatives:
        raise UsageError("a ROC needs members and others")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0.0, True)  # equal scores share a threshold
    true = np.cumsum(members[order])[last] / positives
    false = np.cumsum(~members[order])[last] / negatives
    return Roc(np.append(0.0, false), np.append(0.0, true), positives, negatives)


def _gaussian(values: Floats, chosen: Flags) -> tuple[Floats, float]:
    """Mean of the chosen values [s, n] of each patient, and their common variance around these means."""
    count = chosen.sum(0)
    means = np.where(chosen, values, 0.0).sum(0) / count
    squares = np.where(chosen, (values - means) ** 2, 0.0).sum()
    return means, max(float(squares / (count - 1).sum()), _SMALLEST_VARIANCE)


def _log_density(values: Floats, means: Floats, variance: float) -> Floats:
    return -((values - means) ** 2) / (2.0 * variance) - 0.5 * math.log(variance)


def _probability(confidences: Floats) -> Floats:
    result: Floats = np.exp(-np.logaddexp(0.0, -confidences))
    return result
