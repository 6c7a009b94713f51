"""Exact discrete Gaussian noise: P(x) proportional to exp(-x^2 / (2 sigma^2)) over the integers.

The distribution is that of Canonne, Kamath and Steinke 2020 (NeurIPS; the sampler of their Algorithm 3 is the slow
reference in the tests). Theirs needs a loop per draw; this one looks most draws up in a table with one 16-bit word:

- The integers are cut into blocks of k = 2^shift neighbours, at most sigma/64 wide. Under the probabilities of a block
  lies a rectangle, as high as the block's least likely integer; what is above it is a wedge. A draw picks a rectangle
  or a wedge by inverse CDF, then an integer of its block uniformly. In a rectangle that is all; in a wedge the integer
  is accepted with the probability that is left for it, else the draw starts again.
- Of the 2^16 values that a 16-bit prefix can have, about 98% lie inside one rectangle. The others take 48 bits more,
  and 128 more again where those equal the first 64 bits of a threshold.
- Weights and thresholds are integers from correctly rounded decimal arithmetic of 80 digits. The wedge's probability is
  compared in float64 first; where that is within 2^-40 of the random number, both are taken to 192 bits.

"Exact" means: the total variation distance of one draw from the true distribution is below 2^-128. It has two parts,
the tail beyond 14 sigma, below 2^-140 (they bound it by the Gaussian's), and thresholds rounded to
192 bits, below 2^-170. sigma itself is taken exactly, as the rational number that it is. The time of a draw depends on
its value, so an observer must not be able to time single draws.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError

SMALLEST_SIGMA = 3  # from here on sums of independent draws are discrete Gaussian to 1e-37 (Kairouz et al. 2021)
LARGEST_SIGMA = 1 << 28  # an eighth of the 31 bits that any sum of them has to fit in

_REACH = 14  # standard deviations in the table
_CHUNK = 1 << 15  # draws at a time: the words of a chunk stay in the cache
_THRESHOLD_BITS = 192
_PREFIX_BITS = 16
_UNDECIDED = -(1 << 15)
_FLOAT_TOLERANCE = 2.0**-40  # float64 computes a wedge's probability to better than 2^-48
_DIGITS = Context(prec=80)
_WEIGHT_BITS = 256

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def discrete_gaussian(count: int, sigma: float | Fraction, source: SecureSource) -> Integers:
    """[count] independent exact draws (total variation below 2^-128 each) with scale `sigma`, 3 <= sigma <= 2^28.

    The variance is sigma^2 to within 1e-38. A sigma is taken exactly; its table takes up to 0.3 s and is kept for the
    next call. Raises `PrivacyError` for a sigma that is not in the range, or not a number.
    """
    table = _table(_exact(sigma))
    draws = np.empty(count, np.int64)
    for start in range(0, count, _CHUNK):
        part = draws[start : start + _CHUNK]
        part[:] = table.draw(part.size, source)
    return draws


def _exact(sigma: float | Fraction) -> Fraction:
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:  # also refuses NaN
        raise PrivacyError(
            f"discrete Gaussian noise of scale {sigma!s:.20} is not between {SMALLEST_SIGMA} and 2^28 lattice units",
            where="noise",
            fix="choose a lattice with more units per clip where the scale is too small, with fewer where too large",
        )
    return Fraction(sigma)


@dataclass(frozen=True, eq=False)
class _Table:
    """Blocks of 2^shift integers: block b holds b * 2^shift ... (b + 1) * 2^shift - 1.

    starts: where the rectangles, then the wedges (none where a block is one integer) begin on [0, 2^192), ascending;
    tops: their first 64 bits; blocks: the block of each; rectangles: the number of them; guide: [2^16] the block of all
    numbers with this prefix, or _UNDECIDED.
    """

    sigma: Fraction
    shift: int
    starts: list[int]
    tops: Words
    blocks: Integers
    rectangles: int
    guide: npt.NDArray[np.int16]

    def draw(self, count: int, source: SecureSource) -> Integers:
        prefix = np.frombuffer(source.bytes(2 * count), np.uint16)
        blocks = self.guide[prefix]
        draws = blocks.astype(np.int64)
        if self.shift:
            draws <<= self.shift
            draws += self._offsets(count, source)
        undecided = np.flatnonzero(blocks == _UNDECIDED)
        if undecided.size:
            draws[undecided] = self._decide(prefix[undecided], source)
        return draws

    def _offsets(self, count: int, source: SecureSource) -> npt.NDArray[np.uint32]:
        """[count] uniform on 0 ... 2^shift - 1; the shift is 22 at most."""
        return np.frombuffer(source.bytes(4 * count), np.uint32) & np.uint32((1 << self.shift) - 1)

    def _decide(self, prefix: npt.NDArray[np.uint16], source: SecureSource) -> Integers:
        """Draws whose random number starts with `prefix`, which more than one rectangle or a wedge shares."""
        words = (prefix.astype(np.uint64) << np.uint64(48)) | (_words(prefix.size, source) >> np.uint64(16))
        parts = np.searchsorted(self.tops, words, side="right") - 1
        for tied in np.flatnonzero(self.tops[parts] == words):
            rest = int.from_bytes(source.bytes(16), "big")
            parts[tied] = bisect_right(self.starts, (int(words[tied]) << 128) | rest) - 1
        draws = self.blocks[parts] << self.shift
        if self.shift:
            draws += self._offsets(parts.size, source)
        wedge = np.flatnonzero(parts >= self.rectangles)
        if wedge.size:
            rejected = wedge[~self._accepted(draws[wedge], source)]
            draws[rejected] = self.draw(rejected.size, source)
        return draws

    def _accepted(self, draws: Integers, source: SecureSource) -> npt.NDArray[np.bool_]:
        """True with probability (p(x) - least) / (most - least), least and most over the block of each x."""
        most, least = self._ends(draws)
        variance = 2.0 * float(self.sigma**2)
        # In floating point p(x)/p(most) = exp(-fall); differences of squares as products, which do not cancel.
        fall = (draws - most) * ((draws + most) / variance)
        whole = (least - most) * ((least + most) / variance)
        chance = np.exp(-fall) * np.expm1(fall - whole) / np.expm1(-whole)
        words = _words(draws.size, source)
        distance = chance - words * 2.0**-64
        accepted = distance > 0.0
        for close in np.flatnonzero(np.abs(distance) < _FLOAT_TOLERANCE):
            number = (int(words[close]) << 128) | int.from_bytes(source.bytes(16), "big")
            accepted[close] = number < self._chance(int(draws[close]), int(most[close]), int(least[close]))
        return accepted

    def _ends(self, draws: Integers) -> tuple[Integers, Integers]:
        """The most and the least likely integer of each draw's block."""
        first = draws >> self.shift << self.shift
        last = first + (1 << self.shift) - 1
        return np.where(draws < 0, last, first), np.where(draws < 0, first, last)

    def _chance(self, draw: int, most: int, least: int) -> int:
        """A wedge's probability to 192 bits."""
        top, value, bottom = (_weight(x, self.sigma) for x in (most, draw, least))
        return ((value - bottom) << _THRESHOLD_BITS) // (top - bottom)


def _words(count: int, source: SecureSource) -> Words:
    return np.frombuffer(source.bytes(8 * count), np.uint64)


@lru_cache(maxsize=16)
def _table(sigma: Fraction) -> _Table:
    shift = max(0, math.floor(sigma).bit_length() - 7)
    width = 1 << shift
    reach = math.ceil((_REACH * sigma + 1) / width)
    blocks = range(-reach, reach + (shift == 0))  # symmetric: -reach ... reach where a block is one integer
    ends = [(_weight(b << shift, sigma), _weight(((b + 1) << shift) - 1, sigma)) for b in blocks]
    rectangles = [min(pair) << shift for pair in ends]
    wedges = [abs(left - right) << shift for left, right in ends]
    parts = rectangles + wedges if shift else rectangles
    sums = list(accumulate(parts, initial=0))
    starts = [(part << _THRESHOLD_BITS) // sums[-1] for part in sums]
    guide = np.full(1 << _PREFIX_BITS, _UNDECIDED, np.int16)
    unit = 1 << (_THRESHOLD_BITS - _PREFIX_BITS)
    for block, begin, end in zip(blocks, starts, starts[1:], strict=False):
        guide[-(-begin // unit) : end // unit] = block
    tops = np.array([start >> 128 for start in starts[:-1]], np.uint64)
    return _Table(sigma, shift, starts[:-1], tops, np.resize(blocks, len(parts)), len(rectangles), guide)


def _weight(x: int, sigma: Fraction) -> int:
    """exp(-x^2 / (2 sigma^2)) in units of 2^-256, rounded down; 0 beyond 18 sigma."""
    exponent = -Fraction(x * x, 2) / sigma**2
    power = _DIGITS.exp(_DIGITS.divide(Decimal(exponent.numerator), Decimal(exponent.denominator)))
    return int(Context(prec=120).multiply(power, Decimal(1 << _WEIGHT_BITS)))
