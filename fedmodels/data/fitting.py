"""From one decoded image to the study's size, channels and number type: the same pixels on every machine.

The number type is a function of the public range `input.low` .. `input.high` alone, so that all hospitals agree and no
data decide: whole numbers where the range spans at least 128 of them (rounding then costs at most 1/256 of it), uint8,
int16 or uint16, whichever holds the range; otherwise float32.

8-bit images are converted and resized by Pillow in whole-number arithmetic. All others are clipped to the public range
first, so that a piece of metal weighs as much as the edge of what is plausible, and resized in float32. Both ways are
bilinear, and shrinking averages over all pixels that are covered (no aliasing).
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedmodels.data.unusable import Reason, Unusable
from fedmodels.study_input import ImageInput

Values = npt.NDArray[np.generic]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's conversion of 8 bits
_FEWEST_WHOLE = 128
_WHOLE: tuple[type[np.integer], ...] = (np.uint8, np.int16, np.uint16)


def stored_type(input_: ImageInput) -> np.dtype[np.generic]:
    """The number type of all images of a study."""
    if input_.high - input_.low >= _FEWEST_WHOLE:
        for kind in _WHOLE:
            limits = np.iinfo(kind)
            if limits.min <= input_.low and input_.high <= limits.max:
                return np.dtype(kind)
    return np.dtype(np.float32)


def fit(values: Values, input_: ImageInput) -> Values:
    """[channels, height, width] of `stored_type`, of an image [h, w], [h, w, 1] or [h, w, 3] in pixel units.

    `Unusable` for pixels that are not finite, or all outside the public range.
    """
    if values.dtype == np.uint8:
        picture = Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
        return fit_picture(picture, input_)
    if not np.isfinite(values).all():
        raise Unusable(Reason.NOT_FINITE)
    _check_range(values, input_)
    clipped = np.atleast_3d(values.clip(input_.low, input_.high).astype(np.float32))
    if clipped.shape[2] != input_.channels:
        clipped = (clipped @ _LUMA)[..., None] if input_.channels == 1 else clipped.repeat(3, axis=2)
    return _typed(np.stack([_resized(clipped[..., c], input_) for c in range(input_.channels)]), input_)


def fit_picture(image: Image.Image, input_: ImageInput) -> Values:
    """The same of an image of 8 bits per channel."""
    converted = image.convert("L" if input_.channels == 1 else "RGB")
    _check_range(np.asarray(converted), input_)
    if converted.size != (input_.width, input_.height):
        converted = converted.resize((input_.width, input_.height), Image.Resampling.BILINEAR)
    return _typed(np.atleast_3d(np.asarray(converted, dtype=np.uint8)).transpose(2, 0, 1), input_)


def _resized(channel: npt.NDArray[np.float32], input_: ImageInput) -> npt.NDArray[np.float32]:
    if channel.shape == (input_.height, input_.width):
        return channel
    picture = Image.fromarray(np.ascontiguousarray(channel))
    return np.asarray(picture.resize((input_.width, input_.height), Image.Resampling.BILINEAR), dtype=np.float32)


def _check_range(values: Values, input_: ImageInput) -> None:
    if values.min() > input_.high or values.max() < input_.low:
        raise Unusable(Reason.OUTSIDE)


def _typed(pixels: Values, input_: ImageInput) -> Values:
    kind = stored_type(input_)
    whole = np.issubdtype(kind, np.integer) and not np.issubdtype(pixels.dtype, np.integer)
    return (np.rint(pixels) if whole else pixels).astype(kind)
