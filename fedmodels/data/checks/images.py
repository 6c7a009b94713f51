"""Images as a few numbers each: global statistics, and the low frequencies that tell one picture from another."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.generic]

_FREQUENCIES = 16
_CORNERS = ("top left", "top right", "bottom left", "bottom right")
IMAGE_STATISTICS = (
    "mean brightness", "contrast", "darkest pixel", "brightest pixel", "share of pixels at the brightest",
    "brightness of the border", *(f"brightest pixel of the {corner} corner" for corner in _CORNERS),
)  # fmt: skip


def image_statistics(x: Pixels) -> npt.NDArray[np.float32]:
    """[n, statistics] of images [n, channels, height, width], in raw pixel units, as `IMAGE_STATISTICS` names them.

    The border is the outer twelfth of every side, a corner a square of a sixth: where markers are burned in.
    """
    grey = _grey(x)
    height, width = grey.shape[1:]
    rim, corner = max(1, min(height, width) // 12), max(1, min(height, width) // 6)
    inner = grey[:, rim : height - rim, rim : width - rim]
    edge = height * width - inner[0].size
    border = (grey.sum(axis=(1, 2)) - inner.sum(axis=(1, 2))) / edge
    brightest = grey.max(axis=(1, 2))
    near, far = slice(None, corner), slice(-corner, None)
    corners = [grey[:, rows, columns].max(axis=(1, 2)) for rows in (near, far) for columns in (near, far)]
    at_brightest = (grey == brightest[:, None, None]).mean(axis=(1, 2))
    overall = [grey.mean(axis=(1, 2)), grey.std(axis=(1, 2)), grey.min(axis=(1, 2))]
    return np.stack([*overall, brightest, at_brightest, border, *corners], axis=1).astype(np.float32)


def frequencies(x: Pixels) -> npt.NDArray[np.float32]:
    """[n, k] lowest frequencies of the cosine transform but the constant, scaled to length 1; 0 for a constant image.

    Brightness, contrast, a new size and mild compression hardly move them, an inversion changes their sign.
    """
    grey = _grey(x)
    rows, columns = (_cosines(size) for size in grey.shape[1:])
    low = (rows @ grey @ columns.T).reshape(len(grey), -1)[:, 1:]
    length = np.linalg.norm(low, axis=1, keepdims=True)
    # What is left of a constant image is the rounding of sums over its pixels.
    least = 1e-3 * grey.shape[1]
    return np.where(length > least, low / np.maximum(length, least), 0).astype(np.float32)


def _cosines(size: int) -> npt.NDArray[np.float32]:
    """[frequencies, size] orthonormal cosines of type II."""
    kept = min(_FREQUENCIES, size)
    angles = np.pi * np.arange(kept)[:, None] * (np.arange(size) + 0.5)[None, :] / size
    waves = np.sqrt(2 / size) * np.cos(angles)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float32)


def _grey(x: Pixels) -> npt.NDArray[np.float32]:
    return np.asarray(np.asarray(x, dtype=np.float32).mean(axis=1))
