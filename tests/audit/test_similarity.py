"""PSNR and SSIM against formulas worked out by hand, and the matching of reconstructions."""

import math

import numpy as np
import pytest

from fedmodels.audit.similarity import match, psnr, ssim
from fedmodels.errors import UsageError

DRAW = np.random.default_rng(0)


def test_psnr_of_a_known_error() -> None:
    original = np.full((1, 8, 8), 0.5)
    assert psnr(original + 0.1, original) == pytest.approx(20.0)
    assert psnr(original + 0.01, original) == pytest.approx(40.0)
    assert psnr(original, original) == math.inf


def test_ssim_of_a_single_window_is_wangs_formula() -> None:
    x, y = DRAW.random((2, 1, 7, 7))
    a, b = x.ravel(), y.ravel()
    covariance = sum((p - a.mean()) * (q - b.mean()) for p, q in zip(a, b, strict=True)) / 48
    c1, c2 = 0.0001, 0.0009
    expected = ((2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)) / (
        (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(ddof=1) + b.var(ddof=1) + c2)
    )
    assert ssim(x, y) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_constants_is_the_luminance_term() -> None:
    dark, light = np.full((1, 9, 9), 0.2), np.full((1, 9, 9), 0.6)
    assert ssim(dark, light) == pytest.approx((2 * 0.2 * 0.6 + 0.0001) / (0.2**2 + 0.6**2 + 0.0001))


def test_ssim_is_the_mean_over_windows_and_channels() -> None:
    x, y = DRAW.random((2, 2, 8, 9))
    windows = [
        ssim(x[c : c + 1, r : r + 7, k : k + 7], y[c : c + 1, r : r + 7, k : k + 7])
        for c in range(2)
        for r in range(2)
        for k in range(3)
    ]
    assert ssim(x, y) == pytest.approx(np.mean(windows))


def test_ssim_is_one_for_equal_pictures_and_small_for_unrelated_ones() -> None:
    x, y = DRAW.random((2, 1, 28, 28))
    assert ssim(x, x) == pytest.approx(1.0)
    assert abs(ssim(x, y)) < 0.1


def test_reconstructions_are_matched_whatever_their_order() -> None:
    originals = DRAW.random((5, 1, 8, 8))
    order = [3, 0, 4, 1, 2]
    noisy = originals[order] + 0.01 * DRAW.standard_normal((5, 1, 8, 8))
    assert match(np.concatenate([noisy, DRAW.random((2, 1, 8, 8))]), originals) == [1, 3, 4, 0, 2]


def test_pictures_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be compared"):
        psnr(np.zeros((1, 8, 8)), np.zeros((1, 8, 9)))
    with pytest.raises(UsageError, match="7 x 7"):
        ssim(np.zeros((1, 6, 8)), np.zeros((1, 6, 8)))
    with pytest.raises(UsageError, match="1 reconstructions"):
        match(np.zeros((1, 1, 8, 8)), np.zeros((2, 1, 8, 8)))
