"""The lattice: real updates and integer counts as uint32 whose sums over n contributors cannot wrap around.

Rounding is deterministic: it adds at most half a unit per coordinate, more exact than stochastic rounding. Two vectors
of d coordinates at L2 distance r are encoded at most scale * r + sqrt(d) units apart, since both are rounded.

The scale is a power of two, so that scaling is exact in single precision and needs half of the memory traffic.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg.keystream import WORD, Vector

_HALF_RANGE = 1 << 31
_SIGNED = np.dtype("<i4")
_LEAST_SCALE = 2.0**-100  # it and its inverse are normal numbers in single precision
_CHUNK = 1 << 16  # words encoded at a time: the intermediates stay in the cache


@dataclass(frozen=True)
class Lattice:
    """Encodes x as rint(scale * clip(x, -bound, bound)) modulo 2^32.

    bound: public B > 0, the largest absolute value that is encoded exactly; contributors: the most vectors n that
    are ever added; headroom: lattice units of the sum that are kept free for noise added after encoding.

    Formal guarantee: `scale` is the largest power of two with n * (scale * B + 1/2) + headroom < 2^31, so sums
    neither wrap around nor lose their sign. The error of a decoded sum is at most n / (2 * scale) per coordinate,
    beyond what was clipped. `LocalProtocolError` when no such scale exists.
    """

    bound: float
    contributors: int
    headroom: int = 0

    def __post_init__(self) -> None:
        possible = math.isfinite(self.bound) and self.bound > 0 and self.contributors >= 1 and self.headroom >= 0
        if not possible or self._limit < 1 or not _LEAST_SCALE <= self.scale <= 1 / _LEAST_SCALE:
            raise LocalProtocolError(
                f"no lattice for bound {self.bound}, {self.contributors} contributors and headroom {self.headroom}",
                where="encoding",
                fix="choose a finite positive bound, at least one contributor and less headroom",
            )

    @property
    def _limit(self) -> int:
        """The largest integer m with n * (m + 1/2) + headroom < 2^31."""
        return (2 * (_HALF_RANGE - self.headroom) - self.contributors - 1) // (2 * self.contributors)

    @property
    def scale(self) -> float:
        """Lattice units per 1.0, a power of two."""
        most = self._limit / self.bound
        if not math.isfinite(most):
            return math.inf
        power = math.ldexp(1.0, math.frexp(most)[1] - 1)
        return power if power * self.bound <= self._limit else power / 2.0

    def encode(self, values: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> tuple[Vector, int]:
        """The encoded values, and how many of them were clipped to +-bound. Shape [d] in, [d] out.

        NaN and infinity raise `LocalProtocolError`: no bound would make such an update meaningful.
        """
        if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
            raise LocalProtocolError(
                "only one-dimensional float32 or float64 arrays are encoded",
                where="encoding",
                fix="flatten the update first",
            )
        encoded = np.empty(values.size, _SIGNED)
        scratch = np.empty(min(values.size, _CHUNK), values.dtype)
        number = values.dtype.type
        bound, scale = number(self.bound), number(self.scale)
        if float(bound) > self.bound:
            bound = np.nextafter(bound, number(0))
        clipped = 0
        for start in range(0, values.size, _CHUNK):
            part = values[start : start + _CHUNK]
            work = scratch[: part.size]
            largest = max(-float(part.min()), float(part.max()))  # NaN if there is one
            if not math.isfinite(largest):
                raise LocalProtocolError(
                    "the update holds NaN or infinite values",
                    where="encoding",
                    fix="training diverged: lower the learning rate or the clip",
                )
            if largest > self.bound:
                clipped += int(np.count_nonzero(np.abs(part) > bound))
                part = np.clip(part, -bound, bound, out=work)
            np.multiply(part, scale, out=work)
            encoded[start : start + _CHUNK] = np.rint(work, out=work)
        return encoded.view(WORD), clipped

    def decode(self, total: Vector) -> npt.NDArray[np.float64]:
        """The sum of the values behind a sum of encoded vectors. Shape [d] in, [d] out."""
        return _signed(total) / self.scale

    def encode_integers(self, values: npt.NDArray[np.integer]) -> Vector:
        """Signed integers as they are; one beyond this contributor's share of the range is refused, never clipped.

        The share is the largest m with n * (m + 1/2) + headroom < 2^31.
        """
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise LocalProtocolError(
                "only one-dimensional arrays of integers are encoded",
                where="encoding",
                fix="flatten the counts first",
            )
        if values.size and not (-self._limit <= int(values.min()) and int(values.max()) <= self._limit):
            raise LocalProtocolError(
                f"a count is beyond {self._limit}, one contributor's share of 31 bits",
                where="encoding",
                fix="report coarser counts",
            )
        return values.astype(_SIGNED).view(WORD)

    def decode_integers(self, total: Vector) -> npt.NDArray[np.int64]:
        """The sums of integers behind a sum of encoded vectors."""
        return _signed(total).astype(np.int64)


def _signed(total: Vector) -> npt.NDArray[np.int32]:
    if total.ndim != 1 or total.dtype != WORD:
        raise LocalProtocolError(
            "only one-dimensional arrays of uint32 are decoded", where="encoding", fix="pass the sum of a session"
        )
    return total.view(_SIGNED)
