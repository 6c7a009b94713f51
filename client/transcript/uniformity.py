"""Whether a masked vector looks like what a mask makes of anything: uniformly random words.

Pearson's chi-squared test on the leading bits of each of the four bytes of all words. Before, each bit is added to the
one above it, which leaves uniform words uniform: an encoded update that was not masked is small against the 2^32 values
of a word, of either sign, and so its upper bits become zero. With at least 16 words expected per cell the test's tail
is right to within a factor of two down to 1e-4 (found by simulation).

It shows that something masks, not that nobody else knows the mask.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

SIGNIFICANCE = 1e-3
"""Probability of calling any vector of a correct hospital wrong, over all tests of one examination (Bonferroni)."""

TESTS = 4  # of each vector, one per byte of a word
_EXPECTED = 16
FEWEST_WORDS = 2 * _EXPECTED


def chances(vector: npt.NDArray[np.uint32]) -> tuple[float, ...]:
    """[TESTS] probabilities that uniformly random words look no more uniform; none for fewer than `FEWEST_WORDS`."""
    if vector.size < FEWEST_WORDS:
        return ()
    bits = min(8, int(math.log2(vector.size / _EXPECTED)))
    every = np.ascontiguousarray(vector ^ (vector << np.uint32(1)), "<u4").view(np.uint8).reshape(-1, TESTS)
    return tuple(_chance(every[:, place] >> np.uint8(8 - bits), 1 << bits) for place in range(TESTS))


def _chance(values: npt.NDArray[np.uint8], cells: int) -> float:
    expected = len(values) / cells
    counts = np.bincount(values, minlength=cells)
    return float(chi2.sf(((counts - expected) ** 2).sum() / expected, cells - 1))
