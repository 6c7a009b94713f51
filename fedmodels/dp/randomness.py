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
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from torch import Tensor

_CHUNK = 1 << 17  # normals at a time: they stay in the cache, and torch's threads are worth starting for so many


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
        values = np.zeros(count)
        _add_normals(torch.from_numpy(values), 1.0, 1.0, self._stream)
        return values

    def add_normal(self, target: Tensor, deviation: float, factor: float) -> None:
        """target = (target + deviation * `normal`) * factor, in place, in float64 and rounded once to target's type.

        target: contiguous, of any shape and device. Takes 3 MB beside it.
        """
        _add_normals(target.view(-1), deviation, factor, self._stream)

    def below(self, bound: int) -> int:
        """A uniform integer in [0, bound), by rejection: exactly uniform."""
        size = (bound.bit_length() + 7) // 8
        limit = (1 << (8 * size)) // bound * bound
        while (value := int.from_bytes(self.bytes(size), "big")) >= limit:
            pass
        return value % bound


@torch.no_grad()
def _add_normals(flat: Tensor, deviation: float, factor: float, stream: CipherContext) -> None:
    """`SecureSource.add_normal` by chunks; flat: [n]."""
    chunk = min(_CHUNK, len(flat) + len(flat) % 2)
    zeros, raw = bytes(8 * chunk), bytearray(8 * chunk + 15)  # a cipher wants room for a block more
    bits = torch.frombuffer(raw, dtype=torch.int64, count=chunk)
    normals = torch.empty(chunk, dtype=torch.float64)
    cosines, sines = normals[: chunk // 2], normals[chunk // 2 :]
    radius, angle = torch.empty(2, chunk // 2, dtype=torch.float64)
    for part in torch.split(flat, chunk) if chunk else ():
        stream.update_into(zeros, raw)
        bits.bitwise_right_shift_(11)  # signed: multiples of 1 in [-2^52, 2^52)
        radius.copy_(bits[: chunk // 2]).mul_(-(2.0**-53)).add_(0.5)  # uniform on the multiples of 2^-53 in (0, 1]
        radius.log_().mul_(-2.0 * deviation**2).sqrt_()
        angle.copy_(bits[chunk // 2 :]).mul_(math.pi * 2.0**-52)
        torch.cos(angle, out=cosines).mul_(radius)
        torch.sin(angle, out=sines).mul_(radius)
        noise = normals[: len(part)]
        part.copy_(noise.add_(part.cpu()).mul_(factor))


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
