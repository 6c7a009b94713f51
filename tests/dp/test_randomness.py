"""The cryptographic source and its samplers against their exact distributions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from fedmodels.dp.randomness import SecureSource, discrete_laplace

KEY = bytes(range(32))


def test_two_sources_never_agree_and_a_key_is_never_shown() -> None:
    assert SecureSource().bytes(32) != SecureSource().bytes(32)
    assert "key" in repr(SecureSource(KEY))
    assert KEY.hex() not in repr(SecureSource(KEY))


def test_uniform_and_normal_fit_their_distributions() -> None:
    source = SecureSource(KEY)
    assert stats.kstest(source.uniform(200_000), "uniform").pvalue > 1e-3
    normal = source.normal(200_001)
    assert len(normal) == 200_001
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert normal.std() == pytest.approx(1.0, abs=0.01)


def test_the_distribution_test_would_notice_half_the_noise() -> None:
    assert stats.kstest(0.5 * SecureSource(KEY).normal(200_000), "norm").pvalue < 1e-6


def test_the_halves_of_a_normal_draw_are_uncorrelated() -> None:
    draw = SecureSource(KEY).normal(200_000)
    assert abs(np.corrcoef(draw[:100_000], draw[100_000:])[0, 1]) < 0.015


def test_the_tails_of_a_large_draw_are_those_of_a_gaussian() -> None:
    size = np.abs(SecureSource(KEY).normal(4_000_000))
    beyond = [(size > limit).sum() for limit in (3.0, 4.0, 4.5, 5.0)]
    for limit, count in zip((3.0, 4.0, 4.5, 5.0), beyond, strict=True):
        expected = size.size * 2 * stats.norm.sf(limit)
        assert abs(count - expected) < 5 * math.sqrt(expected), limit
    assert stats.kstest(size, stats.halfnorm.cdf).pvalue > 1e-3


def test_no_noise_is_ever_drawn_twice() -> None:
    """Pieces of 2^18 bytes, chunks of 2^17 draws and calls have nonces of their own."""
    source = SecureSource(KEY)
    draws = np.concatenate([source.normal(300_000), source.normal(300_000), source.normal(3)])
    assert len(np.unique(draws)) > len(draws) - 5


def test_the_bytes_behind_normals_are_the_ctr_keystream_of_a_second_key() -> None:
    source = SecureSource(KEY)
    room = bytearray(3 * (1 << 18) + 16)
    source._fill(memoryview(room))
    key = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(32))
    for piece in range(3):
        start = piece.to_bytes(12, "big") + (2).to_bytes(4, "big")
        expected = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor().update(bytes(1 << 18))
        assert room[piece << 18 : (piece + 1) << 18] == expected


@pytest.mark.parametrize("count", [1, 2, 4999, (1 << 17) + 3])
def test_noise_is_added_in_double_precision_and_rounded_once(count: int) -> None:
    before = torch.linspace(-2.0, 3.0, count)
    target = before.clone()
    SecureSource(KEY).add_normal(target, 1.5, 0.25)
    exact = (before.double() + 1.5 * torch.from_numpy(SecureSource(KEY).normal(count))) * 0.25
    assert (target == exact.float()).float().mean() > 0.999  # the rest: double precision's own last digit
    torch.testing.assert_close(target.double(), exact, rtol=2.0**-23, atol=1e-15)


def test_noise_for_nothing_is_nothing() -> None:
    SecureSource(KEY).add_normal(torch.zeros(0), 1.0, 1.0)


@pytest.mark.parametrize("bound", [1, 2, 7, 255, 256, 1000])
def test_below_is_uniform(bound: int) -> None:
    source = SecureSource(KEY)
    counts = np.bincount([source.below(bound) for _ in range(20 * bound + 2000)], minlength=bound)
    assert len(counts) == bound
    assert bound == 1 or stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(1), Fraction(12, 5)])
def test_discrete_laplace_is_exact(scale: Fraction) -> None:
    draws = discrete_laplace(30_000, scale, SecureSource(KEY))
    reach = range(-4, 5)
    ratio = math.exp(-1 / scale)
    expected = np.array([(1 - ratio) / (1 + ratio) * ratio ** abs(x) for x in reach])
    observed = np.array([(draws == x).sum() for x in reach])
    rest = len(draws) - observed.sum()
    fit = stats.chisquare([*observed, rest], [*(expected * len(draws)), (1 - expected.sum()) * len(draws)])
    assert fit.pvalue > 1e-4


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        discrete_laplace(1, Fraction(0), SecureSource())
