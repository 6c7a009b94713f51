"""Poisson sampling of patients: the sampler for which the accountant's epsilon is true.

Each step takes every patient independently with the public rate q, and from each taken patient one record at random, or
a public number of records that are clipped as one, so that a patient with many records counts as much as one with a
single record (unit = patient). Batch sizes vary and may be zero; a step with an empty batch still adds noise. Shuffling
into fixed batches is something else and costs more privacy than it claims.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedmodels.errors import PrivacyError

_SMALLEST_TAG = 2.0**-53  # equal tags are cut no further


class UniformSource(Protocol):
    """Uniform floats in [0, 1): `SecureSource` under privacy, a seeded generator in mode `none`."""

    def uniform(self, count: int) -> npt.NDArray[np.float64]: ...


class SeededSource:
    """Repeatable uniforms for runs without privacy."""

    def __init__(self, *seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        return self._generator.random(count)


class PoissonSampler:
    """Draws the row numbers of one step's batch."""

    def __init__(
        self, patients: npt.NDArray[np.str_], rate: float, shares: npt.NDArray[np.float64] | None = None
    ) -> None:
        """patients: [n] the patient of each record; rate: q in (0, 1].

        shares: [n] in (0, 1], fixed by each record alone: a patient is taken with q times the largest of theirs. Taking
        some patients less often than q costs them less privacy than q does, so that q stays what is accounted for; a
        sampler that took anybody more often, or so many of each class, would not be covered by it and is refused.
        """
        if not 0.0 < rate <= 1.0:
            raise PrivacyError(f"sampling rate {rate} is not in (0, 1]")
        if shares is not None and (shares.shape != patients.shape or not ((shares > 0) & (shares <= 1)).all()):
            raise PrivacyError(
                "a patient would be sampled more often than the rate that is accounted for, or never",
                fix="give every record a share in (0, 1]",
            )
        _, owner = np.unique(patients, return_inverse=True)
        self._owner = owner
        self._rows = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]]).astype(np.int64)
        self._rates = np.full(len(self._counts), rate)
        if shares is not None:
            largest = np.zeros(len(self._counts))
            np.maximum.at(largest, owner, shares)
            self._rates *= largest

    def draw(self, source: UniformSource) -> npt.NDArray[np.int64]:
        """Row numbers, one per sampled patient, in order of patient; possibly none."""
        taken = np.flatnonzero(source.uniform(len(self._counts)) < self._rates)
        counts = self._counts[taken]
        offsets = np.minimum((source.uniform(len(taken)) * counts).astype(np.int64), counts - 1)
        rows: npt.NDArray[np.int64] = self._rows[self._starts[taken] + offsets]
        return rows

    def several(self, rows: npt.NDArray[np.int64], count: int, source: UniformSource) -> npt.NDArray[np.int64]:
        """[n * count] for each drawn row [n], so many records of its patient one after the other.

        They are drawn without replacement; those of a patient who has fewer repeat in turn, in random order. It is for
        the clip to count them as one: a patient is in a batch with `count` rows or with none.
        """
        if count == 1:
            return rows
        patients = self._owner[rows]
        counts = self._counts[patients]
        begins = np.cumsum(counts) - counts
        turn = np.repeat(np.arange(len(rows)), counts)  # the drawn row that each record of a taken patient belongs to
        every = self._rows[self._starts[patients][turn] + np.arange(len(turn)) - begins[turn]]
        shuffled = every[np.lexsort((source.uniform(len(turn)), turn))]
        chosen: npt.NDArray[np.int64] = shuffled[begins[:, None] + np.arange(count) % counts[:, None]]
        return chosen.reshape(-1)


def parts(tags: npt.NDArray[np.float64], most: int) -> Iterator[npt.NDArray[np.int64]]:
    """Places of the sampled patients in parts of at most `most`, each in ascending order.

    tags: [n] in [0, 1), one for each patient, drawn independently. The interval is cut in half until what falls into
    each part of it fits. Guarantee: without one patient, the parts are the same but for those, or the one, of a single
    interval with at most `most` + 1 patients. Were every `most` of them a part, all the parts behind would shift.
    """
    yield from _halved(np.arange(len(tags)), tags, most, 0.0, 1.0)


def passes(tags: npt.NDArray[np.float64], most: int, at_once: int) -> Iterator[tuple[npt.NDArray[np.int64], bool]]:
    """The `parts` of at most `most` patients, each in passes of at most `at_once`.

    Yields the places of each pass, and whether it is the last of its part. Passes are cut as parts are, so that without
    one patient only those of an interval of at most `at_once` + 1 patients change.
    """
    for part in parts(tags, most):
        cut = list(parts(tags[part], at_once))
        for some in cut:
            yield part[some], some is cut[-1]


def _halved(
    places: npt.NDArray[np.int64], tags: npt.NDArray[np.float64], most: int, low: float, width: float
) -> Iterator[npt.NDArray[np.int64]]:
    if len(places) <= most or width <= _SMALLEST_TAG:
        if len(places):
            yield places
        return
    below = tags[places] < low + width / 2
    yield from _halved(places[below], tags, most, low, width / 2)
    yield from _halved(places[~below], tags, most, low + width / 2, width / 2)
