"""How alike two pictures are: PSNR and SSIM (Wang et al. 2004), and which reconstruction is of which original."""

import math

import numpy as np
import numpy.typing as npt

from fedmodels.errors import UsageError

Picture = npt.NDArray[np.floating]
Pictures = npt.NDArray[np.floating]

_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def psnr(picture: Picture, original: Picture) -> float:
    """Peak signal-to-noise ratio in dB of pictures [channels, height, width] in [0, 1]; infinite if they are equal.

    10 log10(1 / mean squared error).
    """
    _check(picture, original)
    error = float(np.mean((picture.astype(np.float64) - original) ** 2))
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def ssim(picture: Picture, original: Picture) -> float:
    """Mean structural similarity of pictures [channels, height, width] in [0, 1]: 1 if equal, about 0 if unrelated.

    Wang et al. 2004, with uniform windows of 7 x 7 pixels that lie wholly inside, variances with divisor 48, K1 = 0.01
    and K2 = 0.03, as scikit-image computes it by default. Pictures have at least 7 x 7 pixels.
    """
    _check(picture, original)
    x, y = _windows(picture), _windows(original)
    mean_x, mean_y = x.mean(-1), y.mean(-1)
    count = _WINDOW**2
    variance_x, variance_y = x.var(-1, ddof=1), y.var(-1, ddof=1)
    covariance = ((x - mean_x[..., None]) * (y - mean_y[..., None])).sum(-1) / (count - 1)
    c1, c2 = _K1**2, _K2**2
    local = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(local.mean())


def match(pictures: Pictures, originals: Pictures) -> list[int]:
    """For each of the originals [n, ...] the index of its reconstruction among pictures [m, ...], m >= n.

    A sum does not say in which order its records were added. The most similar pair (PSNR) is matched first, then the
    most similar of what is left: an attacker who knows the originals could do no more than choose like this, so that
    scores of matched pictures flatter the attack.
    """
    if len(pictures) < len(originals):
        raise UsageError(f"{len(pictures)} reconstructions cannot be of {len(originals)} pictures")
    likeness = np.array([[psnr(picture, original) for picture in pictures] for original in originals])
    matched = [-1] * len(originals)
    for _ in originals:
        row, column = np.unravel_index(int(likeness.argmax()), likeness.shape)
        matched[int(row)] = int(column)
        likeness[row, :] = -math.inf
        likeness[:, column] = -math.inf
    return matched


def _windows(picture: Picture) -> npt.NDArray[np.float64]:
    """[channels, rows, columns, 49] the pixels of every window."""
    views = np.lib.stride_tricks.sliding_window_view(picture.astype(np.float64), (_WINDOW, _WINDOW), axis=(1, 2))
    return views.reshape(*views.shape[:3], _WINDOW**2)


def _check(picture: Picture, original: Picture) -> None:
    if picture.shape != original.shape or picture.ndim != 3 or min(picture.shape[1:]) < _WINDOW:
        raise UsageError(
            f"pictures of shapes {picture.shape} and {original.shape} cannot be compared",
            fix=f"compare [channels, height, width] of one size, at least {_WINDOW} x {_WINDOW} pixels",
        )
