"""The cryptographic source and its samplers against their exact distributions."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from fedmodels.dp.randomness import SecureSource, discrete_laplace

KEY = bytes(range(32))
KINDS = pytest.mark.parametrize("kind", [torch.float32, torch.float64])


def test_two_sources_never_agree_and_a_key_is_never_shown() -> None:
    assert SecureSource().bytes(32) != SecureSource().bytes(32)
    assert "key" in repr(SecureSource(KEY))
    assert KEY.hex() not in repr(SecureSource(KEY))


def draw(count: int, kind: torch.dtype, source: SecureSource | None = None) -> npt.NDArray[np.float64]:
    """Standard normals as they are added to a gradient of that type."""
    target = torch.zeros(count, dtype=kind)
    (source or SecureSource(KEY)).add_normal(target, 1.0, 1.0)
    return target.double().numpy()


def test_uniform_fits_its_distribution() -> None:
    assert stats.kstest(SecureSource(KEY).uniform(200_000), "uniform").pvalue > 1e-3


@KINDS
def test_normal_fits_its_distribution(kind: torch.dtype) -> None:
    normal = draw(200_001, kind)
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert normal.std() == pytest.approx(1.0, abs=0.01)
    assert stats.kstest(0.98 * normal, "norm").pvalue < 1e-3  # it would notice a fiftieth less noise


@KINDS
def test_the_two_normals_of_a_pair_are_independent(kind: torch.dtype) -> None:
    """Their angle is uniform, and says nothing about their radius."""
    first, second = draw(200_000, kind).reshape(2, -1)
    angle, radius = np.arctan2(second, first), np.hypot(first, second)
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert stats.kstest(radius, "rayleigh").pvalue > 1e-3
    for turn in (1, 2, 4, 8):
        assert abs(np.corrcoef(np.cos(turn * angle), radius)[0, 1]) < 0.015


@KINDS
def test_the_tails_of_a_large_draw_are_those_of_a_gaussian(kind: torch.dtype) -> None:
    size = np.abs(draw(4_000_000, kind))
    beyond = [(size > limit).sum() for limit in (3.0, 4.0, 4.5, 5.0)]
    for limit, count in zip((3.0, 4.0, 4.5, 5.0), beyond, strict=True):
        expected = size.size * 2 * stats.norm.sf(limit)
        assert abs(count - expected) < 5 * math.sqrt(expected), limit
    assert stats.kstest(size, stats.halfnorm.cdf).pvalue > 1e-3


def test_the_longest_tail_is_beyond_eight_also_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A radius from 24 or 32 random bits would end at 5.8 or 6.7, which 51M weights reach."""

    def most(_: SecureSource, room: memoryview) -> None:
        room[:] = b"\xff" * 8 + bytes(len(room) - 8)

    monkeypatch.setattr(SecureSource, "_fill", most)
    assert 8.4 < draw(2, torch.float32)[0] < 8.5


def test_no_noise_is_ever_drawn_twice() -> None:
    """Pieces of 2^18 bytes, chunks of 2^17 draws and calls have nonces of their own."""
    source = SecureSource(KEY)
    draws = np.concatenate([draw(count, torch.float64, source) for count in (300_000, 300_000, 3)])
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


@KINDS
@pytest.mark.parametrize("count", [1, 2, 4999, (1 << 18) + 3])
def test_noise_is_exact_to_the_last_digits_of_its_target(count: int, kind: torch.dtype) -> None:
    """Against the same random bits in double precision."""
    before = torch.linspace(-2.0, 3.0, count, dtype=kind)
    target, normal = before.clone(), torch.from_numpy(SecureSource(KEY).normal(count))
    SecureSource(KEY).add_normal(target, 1.5, 0.25)
    error = (target.double() - (before.double() + 1.5 * normal) * 0.25).abs()
    radius = torch.full_like(normal, 8.5)  # of the pair: an error of its angle moves both normals
    assert (error <= torch.finfo(kind).eps * (before.double().abs() + 1.5 * radius) * 0.25).all()


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
