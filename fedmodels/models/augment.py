"""Images changed at random before a step, so that a model learns not to mind: a small public set of changes.

Under privacy a record gets K copies, changed differently, whose gradients are averaged before the clip (augmentation
multiplicity: De et al. 2022, section 3.3): a record still moves a sum by at most C. What is drawn here depends on no
data, so that any generator will do; it is torch's.
"""

import torch
from torch import Tensor

from fedmodels.study import Training

_SHIFT = 10  # at most height // 10 and width // 10 pixels
_BRIGHTNESS = 0.1  # of half the pixel range


def augmented(x: Tensor, training: Training) -> Tensor:
    """[n * augmentations, c, h, w] of images x [n, c, h, w] in [-1, 1]: the copies of an image one after the other."""
    x = x.repeat_interleave(training.augmentations, 0)
    for name in training.augment:
        x = _CHANGES[name](x)
    return x


def _flip(x: Tensor) -> Tensor:
    """Left and right exchanged in half of the images."""
    chosen = torch.rand(len(x), 1, 1, 1) < 0.5
    return torch.where(chosen, x.flip(3), x)


def _shift(x: Tensor) -> Tensor:
    """Moved by up to a tenth of the height and width; what is uncovered repeats the edge."""
    rows, columns = (_moved(len(x), size) for size in x.shape[2:])
    images = torch.arange(len(x))[:, None, None]
    moved: Tensor = x[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return moved


def _moved(count: int, size: int) -> Tensor:
    """[count, size] where each pixel of a row or column comes from."""
    offsets = torch.randint(-(size // _SHIFT), size // _SHIFT + 1, (count, 1))
    return (torch.arange(size) + offsets).clamp(0, size - 1)


def _brightness(x: Tensor) -> Tensor:
    """Contrast times 0.9 .. 1.1 and brightness by up to a twentieth of the pixel range, within the range."""
    contrast, offset = _BRIGHTNESS * (2.0 * torch.rand(2, len(x), 1, 1, 1) - 1.0)
    changed: Tensor = x * (1.0 + contrast) + offset
    return changed.clamp(-1.0, 1.0)


_CHANGES = {"flip": _flip, "shift": _shift, "brightness": _brightness}
