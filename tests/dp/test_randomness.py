"""The cryptographic source and its samplers against their exact distributions."""

import math
from fractions import Fraction

import numpy as np
import pytest
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
