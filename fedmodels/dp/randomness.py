"""Randomness for privacy: an AES-256-CTR generator keyed by the operating system, and exact samplers on top of it.

There is no seed: a key is drawn from `os.urandom` per source, so noise can neither be repeated nor predicted, not by a
researcher who wants the same run twice and not by another hospital. Tests pass a key explicitly.
"""

import math
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from fedmodels.keystream import PIECE_BYTES, TAIL_BYTES, keystream

_PAIRS = 1 << 17  # of normals at a time: they stay in the cache, and so many are worth starting torch's threads for
_MANTISSA, _ONE = (1 << 52) - 1, 0x3FF << 52  # bits of a float64: those after the point, those of 1.0


class SecureSource:
    """A stream of cryptographic random numbers. Not thread-safe; one source per use."""

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = Cipher(algorithms.AES(key or os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._fast, self._pieces = keystream(self._stream.update(bytes(32))), 0

    def __repr__(self) -> str:
        return "SecureSource(<key>)"

    def bytes(self, count: int) -> bytes:
        """`count` uniform bytes."""
        return self._stream.update(bytes(count))

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` values uniform on the multiples of 2^-53 in [0, 1)."""
        bits = np.frombuffer(self.bytes(8 * count), np.uint64) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> npt.NDArray[np.float64]:
        """`count` independent standard normals by Box and Muller 1958, in float64; |x| < 8.5 by construction.

        A floating-point Gaussian is not exact (Mironov 2012). What leaves a hospital is not this value but a function
        of many steps of it rounded to a public lattice; the discrete Gaussian on that lattice is for `distributed`.
        """
        values = np.zeros(count)
        self.add_normal(torch.from_numpy(values), 1.0, 1.0)
        return values

    @torch.no_grad()
    def add_normal(self, target: Tensor, deviation: float, factor: float) -> None:
        """target = (target + deviation * `normal`) * factor, in place.

        The tail is as long for every type: the logarithm of 52 random bits is taken in float64. The rest is computed
        in float32, unless target is float64: errors of a few 2^-24 standard deviations, as of target's own rounding.
        target: contiguous, of any shape and device. Takes 3 MB beside it.
        """
        flat = target.view(-1)
        pairs = min(_PAIRS, (len(flat) + 1) // 2)
        kind = torch.float64 if target.dtype == torch.float64 else torch.float32
        words = torch.empty(pairs + (pairs + 1) // 2 + TAIL_BYTES // 8, dtype=torch.int64)
        random, turn = words[:pairs], words[pairs:].view(torch.int32)[:pairs]
        uniform, radius = random.view(torch.float64), torch.empty(pairs, dtype=kind)
        normals = torch.empty(2, pairs, dtype=kind)
        first, second = normals
        for part in torch.split(flat, 2 * pairs) if pairs else ():
            self._fill(words.numpy().data.cast("B"))
            random.bitwise_and_(_MANTISSA).bitwise_or_(_ONE)  # uniform on the multiples of 2^-52 in [1, 2)
            torch.sub(2.0, uniform, out=uniform).log_()  # the logarithm of a number in (0, 1]
            radius.copy_(uniform).mul_(-2.0).sqrt_()
            second.copy_(turn).mul_(math.pi / (1 << 31))  # uniform in [-pi, pi)
            torch.cos(second, out=first).mul_(radius)
            second.sin_().mul_(radius)
            part.mul_(factor).add_(normals.view(-1)[: len(part)].to(part.device), alpha=deviation * factor)

    def _fill(self, room: memoryview) -> None:
        """Random bytes from a second key, piece after piece; the last 16 mean nothing. No piece is used twice."""
        for start in range(0, len(room) - TAIL_BYTES, PIECE_BYTES):
            self._fast(self._pieces, room[start : start + PIECE_BYTES + TAIL_BYTES])
            self._pieces += 1

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), by rejection: exactly uniform."""
        size = (bound.bit_length() + 7) // 8
        limit = (1 << (8 * size)) // bound * bound
        while (value := int.from_bytes(self.bytes(size), "big")) >= limit:
            pass
        return value % bound


def discrete_laplace(count: int, scale: Fraction, source: SecureSource) -> npt.NDArray[np.int64]:
    """`count` exact draws with P(x) proportional to exp(-|x| / scale), scale a positive rational.

    Canonne, Kamath and Steinke 2020, Algorithm 2: integers only, no floating point. Added to integer counts of L1
    sensitivity 1/epsilon * scale it gives pure epsilon-DP.
    """
    if scale <= 0:
        raise ValueError("the scale of discrete Laplace noise must be positive")
    draws = _discrete_laplace_stream(scale.numerator, scale.denominator, source)
    return np.fromiter((next(draws) for _ in range(count)), np.int64, count)


def _discrete_laplace_stream(numerator: int, denominator: int, source: SecureSource) -> Iterator[int]:
    while True:
        remainder = source.below(numerator)
        if not _bernoulli_exp(remainder, numerator, source):
            continue
        quotient = 0
        while _bernoulli_exp(1, 1, source):
            quotient += 1
        magnitude = (remainder + numerator * quotient) // denominator
        negative = source.below(2)
        if not (negative and magnitude == 0):
            yield -magnitude if negative else magnitude


def _bernoulli_exp(numerator: int, denominator: int, source: SecureSource) -> bool:
    """True with probability exp(-numerator/denominator), exactly, for a ratio in [0, 1] (Algorithm 1 of the paper)."""
    k = 1
    while source.below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1
