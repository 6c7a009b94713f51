"""Records as sets, and sets as short signatures that agree as far as the sets do (MinHash; Broder, 1997).

A text is the set of its runs of three tokens, a series the set of its cells (variable, step, value to a thousandth of
the public range) that bring a new value. Two unrelated records share practically none of either; a copy that was
shortened, corrected or added to shares most. `similar` finds pairs of which the shares in common, among all, reach 0.7.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

LEAST_ELEMENTS = 8
"""Smaller sets are left out: a short phrase or a few common values repeat without anybody having copied them."""
SIMILAR = 0.7
_BANDS, _BAND = 16, 4  # a pair at the threshold is compared with probability 0.988, one at 0.8 with 0.9998
_ODD = np.random.default_rng(1997).integers(0, 1 << 63, size=(2, _BANDS * _BAND), dtype=np.uint64) * np.uint64(2)
_MULTIPLIERS, _SHIFTS = _ODD[0] + np.uint64(1), _ODD[1]


@dataclass(frozen=True, repr=False)
class Ragged:
    """Sets of 64-bit elements, one after the other; a set may hold an element twice. counts: [n] of elements."""

    elements: Words
    counts: npt.NDArray[np.int64]

    def sets(self) -> list[Words]:
        return [np.unique(part) for part in np.split(self.elements, np.cumsum(self.counts)[:-1])]


def text_elements(x: npt.NDArray[np.generic], lengths: npt.NDArray[np.int64]) -> Ragged:
    """Runs of three tokens of [n, tokens] with these lengths."""
    tokens = np.asarray(x, dtype=np.uint64)
    if tokens.shape[1] < 3:
        return Ragged(np.empty(0, dtype=np.uint64), np.zeros(len(tokens), dtype=np.int64))
    runs = _mix(_mix(_mix(tokens[:, :-2]) + tokens[:, 1:-1]) + tokens[:, 2:])
    counts = np.maximum(lengths - 2, 0)
    return Ragged(runs[np.arange(runs.shape[1]) < counts[:, None]], counts)


def series_elements(x: npt.NDArray[np.generic], variables: int) -> Ragged:
    """Cells of [n, steps, features], of which the first 3 * variables are value, mask and time since.

    Those that were measured and are not what they were a step before: a paced heart beats alike in everybody.
    """
    cells = np.asarray(x[:, :, : 3 * variables], dtype=np.float32).reshape(len(x), x.shape[1], variables, 3)
    value = np.rint(cells[..., 0] * 1000).astype(np.uint64)
    news = cells[..., 1] > 0
    news[:, 1:] &= value[:, 1:] != value[:, :-1]
    place = np.arange(x.shape[1] * variables, dtype=np.uint64).reshape(x.shape[1], variables)
    return Ragged(_mix(_mix(value) + place)[news], news.sum(axis=(1, 2)).astype(np.int64))


def signatures(sets: Ragged) -> npt.NDArray[np.uint32]:
    """[n, 64]: for each of 64 hashes the smallest of a set's elements; all ones for sets that are too small."""
    made = np.full((len(sets.counts), len(_MULTIPLIERS)), np.iinfo(np.uint32).max, dtype=np.uint32)
    enough = sets.counts >= LEAST_ELEMENTS
    if not enough.any():
        return made
    kept = sets.elements[np.repeat(enough, sets.counts)]
    starts = np.concatenate([[0], np.cumsum(sets.counts[enough])[:-1]])
    for number, (multiplier, shift) in enumerate(zip(_MULTIPLIERS, _SHIFTS, strict=True)):
        hashed = (kept * multiplier + shift) >> np.uint64(32)
        made[enough, number] = np.minimum.reduceat(hashed, starts)
    return made


def candidates(made: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """[pairs, 2] rows that agree in a whole band of their signatures, each with the first such and the one before."""
    usable = np.flatnonzero((made != np.iinfo(np.uint32).max).any(axis=1))
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(_BANDS):
        part = made[usable, band * _BAND : (band + 1) * _BAND].astype(np.uint64)
        key = np.zeros(len(part), dtype=np.uint64)
        for column in part.T:
            key = _mix(key + column)
        order = np.argsort(key, kind="stable")
        same = np.flatnonzero(key[order][1:] == key[order][:-1]) + 1
        heads = np.arange(len(order))
        heads[same] = 0
        heads = np.maximum.accumulate(heads)
        pairs += [usable[order[np.column_stack([other, same])]] for other in (heads[same], same - 1)]
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def similar(pairs: npt.NDArray[np.int64], sets_of: Callable[[npt.NDArray[np.int64]], Ragged]) -> npt.NDArray[np.bool_]:
    """[pairs] whether the sets of each pair have a Jaccard index of `SIMILAR` or more.

    sets_of: the sets of some rows, asked for a few hundred pairs at a time.
    """
    found = np.zeros(len(pairs), dtype=np.bool_)
    for start in range(0, len(pairs), 500):
        part = pairs[start : start + 500]
        rows = np.unique(part)
        sets = dict(zip(rows.tolist(), sets_of(rows).sets(), strict=True))
        for number, (one, other) in enumerate(part.tolist(), start):
            common = len(np.intersect1d(sets[one], sets[other], assume_unique=True))
            found[number] = common >= SIMILAR * (len(sets[one]) + len(sets[other]) - common)
    return found


def _mix(values: Words) -> Words:
    """A bijection of 64 bits that spreads every bit over all (splitmix64; Steele, Lea & Flood, 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
