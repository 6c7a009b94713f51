"""Randomness for privacy: an AES-256-CTR generator keyed by the operating system, and exact samplers on top of it.

There is no seed: a key is drawn from `os.urandom` per source, so noise can neither be repeated nor predicted, not by a
researcher who wants the same run twice and not by another hospital. Tests pass a key explicitly.
"""

import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_TWO_PI = 2.0 * np.pi


class SecureSource:
    """A stream of cryptographic random numbers. Not thread-safe; one source per use."""

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = Cipher(algorithms.AES(key or os.urandom(32)), modes.CTR(bytes(16))).encryptor()

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
        """`count` independent standard normals by Box and Muller 1958, in float64; |x| <= 8.58 by construction.

        A floating-point Gaussian is not exact (Mironov 2012). What leaves a hospital is not this value but a function
        of many steps of it rounded to a public lattice; the discrete Gaussian on that lattice is for `distributed`.
        """
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(1.0 - self.uniform(pairs)))
        angle = _TWO_PI * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

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
