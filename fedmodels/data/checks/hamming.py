"""Pairs of pictures whose perceptual hashes are nearer to each other than chance brings any two of a site's pictures.

A bit says whether a low frequency is above its median over the site. That takes out what all pictures of one kind have
in common (every chest X-ray has a spine), and makes each bit a fair coin. The distance of two unrelated pictures then
behaves as so many independent coins as its spread shows (degrees of freedom; Daugman, "The importance of being
random", Pattern Recognition 36, 2003), from which follows how near is too near for a number of pairs. The spread is
taken far out in the lower tail, which is heavier than the middle: some unrelated pictures are more alike than others.
On 5,232 chest X-rays that gives a distance of 40 of 255; 28 pairs of them are at 0, and none between 1 and 45.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm

from fedmodels.data.checks.statistics import FALSE_ALARM

Bits = npt.NDArray[np.uint64]

_SAMPLE = 200_000
_ROWS, _COLUMNS = 16, 4096  # a tile of them stays in the processor's cache
_MOST = 1_000_000


def hashes(frequencies: npt.NDArray[np.float32]) -> Bits:
    """[n, words] packed bits of [n, coefficients], padded with zeros."""
    above = frequencies > np.median(frequencies, axis=0)
    packed = np.packbits(above, axis=1)
    whole = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view(np.uint64)


def distances(one: Bits, other: Bits) -> npt.NDArray[np.int64]:
    """[pairs] Hamming distance of [pairs, words] and [pairs, words]."""
    return np.asarray(np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64))


def radius(bits: Bits) -> int:
    """Largest distance that less than `FALSE_ALARM` pairs of unrelated pictures are expected to fall below; -1: none.

    Mean and spread are of random pairs.
    """
    count = len(bits)
    if count < 3:
        return -1
    generator = np.random.default_rng(2003)
    one = generator.integers(0, count, _SAMPLE)
    other = (one + generator.integers(1, count, _SAMPLE)) % count
    found = distances(bits[one], bits[other])
    # So far out that it is the tail, not so far that a few pairs of near duplicates would be the tail.
    level = max(1e-4, 1 / (2 * count))
    spread = (float(found.mean()) - float(np.quantile(found, level))) / float(norm.isf(level))
    total = bits.shape[1] * 64
    share = float(found.mean()) / total
    if spread <= 0 or not 0 < share < 1:
        return -1
    freedom = max(1, int(share * (1 - share) * (total / spread) ** 2))
    allowed = FALSE_ALARM / (count * (count - 1) / 2)
    most = int(binom.ppf(allowed, freedom, share)) - 1  # the largest number of coins with at most this probability
    return int(most / freedom * total) if most >= 0 else -1


def pairs_within(bits: Bits, limit: int, progress: Callable[[int, int], None]) -> npt.NDArray[np.int64]:
    """[pairs, 2] rows i < j at most `limit` apart, at most a million of them, in bounded memory.

    All pairs are compared, 5e9 for 100,000 pictures, but most by the first half of their bits alone: where that is
    further apart than `limit`, so is the whole.
    """
    half = -(-bits.shape[1] // 2)
    columns = np.ascontiguousarray(bits.T[:half])
    found, total = [np.empty((0, 2), dtype=np.int64)], 0
    for start in range(0, len(bits), _ROWS):
        rows = columns[:, start : start + _ROWS, None]
        for other in range(start, len(bits), _COLUMNS):
            apart = _apart(rows, columns[:, None, other : other + _COLUMNS])
            near = np.argwhere(apart <= limit) + np.array([start, other]) if (apart <= limit).any() else found[0]
            near = near[near[:, 0] < near[:, 1]]
            found.append(near[distances(bits[near[:, 0]], bits[near[:, 1]]) <= limit])
            total += len(found[-1])
        progress(min(start + _ROWS, len(bits)), len(bits))
        if total > _MOST:
            break
    return np.concatenate(found)[:_MOST]


def _apart(rows: Bits, columns: Bits) -> npt.NDArray[np.uint16]:
    """[rows, columns] distances of [words, rows, 1] and [words, 1, columns]."""
    apart: npt.NDArray[np.uint16] = np.bitwise_count(rows[0] ^ columns[0]).astype(np.uint16)
    for one, other in zip(rows[1:], columns[1:], strict=True):
        apart += np.bitwise_count(one ^ other)
    return apart
