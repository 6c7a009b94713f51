"""Pixels of DICOM files, in the units or on the scale that the study asks for (DICOM PS3.3 C.7.6.3, C.11.1, C.11.2).

`rescaled`: stored values through the modality LUT (slope and intercept, or a table): Hounsfield units of CT, otherwise
mostly the device's numbers. `window`: then through the VOI LUT, the file's first window or table or one for all files,
whose black becomes the study's `low` and whose white its `high`.

MONOCHROME1 has white at low values. It is turned around: under `window` on the scale from black to white; under
`rescaled` within the range of values that the file can store (0 .. 4095 at 12 bits), so that it looks as the same
picture stored as MONOCHROME2. Measured quantities (CT, PET and dose) are not turned around under `rescaled`: there
the photometric interpretation says how to show numbers, not what they mean.

Colour (RGB, YBR, palettes) has neither LUT: its whole scale becomes `low` .. `high`.

A picture with text burned in is refused, since the text may be a patient's name. Files often do not say so. Of all that
a file says nothing but pixels is kept, and pydicom's warnings, which quote values, are silenced.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, JPEGExtended12Bit

from fedmodels.data.binding_kinds import DicomRules
from fedmodels.data.fitting import Values, fit
from fedmodels.data.unusable import Reason, Unusable
from fedmodels.study_input import ImageInput

Floats = npt.NDArray[np.float64]

_MOST_PIXELS, _MOST_FRAMES = 1 << 27, 100_000
_AT_ONCE = 1 << 28  # bytes of a file that is read as a whole; of larger ones a frame at a time
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MEASURES = ("CT", "PT", "RTDOSE")
# What pydicom and the decoders behind it raise on damaged files, found by cutting and changing files at random.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError,
    NotImplementedError, OSError, RuntimeError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do. `Unusable` for one that is absent or empty."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError:
        raise Unusable(Reason.ABSENT) from None
    except OSError:
        raise Unusable(Reason.DAMAGED) from None
    if not head:
        raise Unusable(Reason.EMPTY)
    return head[128:] == b"DICM"


def may_crash(path: Path) -> bool:
    """Whether only GDCM decodes a DICOM file, which ends the process on some that are damaged (`apart`)."""
    try:
        with _silenced():
            return get_decoder(_syntax(read_file_meta_info(path))).available_plugins == ("gdcm",)
    except _BROKEN:
        return False  # nor will it be decoded


def text_of(header: Dataset, keyword: str) -> str:
    """A tag as text, several values with backslashes between them; "" where it is absent or malformed."""
    try:
        with _silenced():
            value = header.get(keyword)
            several = isinstance(value, MultiValue | list)
            return "" if value is None else "\\".join(map(str, value if several else [value])).strip()
    except _BROKEN:
        return ""


def read_tags(path: Path, keywords: list[str]) -> Dataset:
    """These tags of a file, and no others; `Unusable` for a file that is not DICOM or broken off inside them."""
    if not is_dicom(path):
        raise Unusable(Reason.UNKNOWN)
    try:
        with _silenced():
            return dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
    except _BROKEN:
        raise Unusable(Reason.DAMAGED) from None


def frame_count(header: Dataset) -> int:
    """Number of frames by a header with `NumberOfFrames`; 1 where it says nothing."""
    try:
        count = max(1, int(header.get("NumberOfFrames") or 1))
    except (TypeError, ValueError):
        raise Unusable(Reason.DAMAGED) from None
    if count > _MOST_FRAMES:
        raise Unusable(Reason.TOO_LARGE)
    return count


def chosen_frames(count: int, rules: DicomRules) -> range:
    """The numbers of the frames that `dicom.frame` means, from 0."""
    match rules.frame:
        case "all":
            return range(count)
        case "middle":
            return range(count // 2, count // 2 + 1)
        case "only" if count > 1:
            raise Unusable(Reason.FRAMES)
        case _:
            return range(1)


def read_frames(path: Path, rules: DicomRules, input_: ImageInput) -> list[Values]:
    """Each chosen frame as the study asks for it (`fit`); one is decoded at a time. `Unusable` with the reason."""
    if not is_dicom(path):
        raise Unusable(Reason.UNKNOWN)
    try:
        with _silenced():
            header = dcmread(path, stop_before_pixels=True)
            _check(header)
            numbers = chosen_frames(frame_count(header), rules)
            # Where Pillow can decode, GDCM is not tried: the same pixels, and no crash on damaged files.
            plugin = "pillow" if "pillow" in get_decoder(_syntax(header.file_meta)).available_plugins else ""
            # pydicom finds pixels of deflated and of some compressed files only in memory.
            source = dcmread(path) if path.stat().st_size <= _AT_ONCE else path
            pixels = iter_pixels(source, indices=numbers, decoding_plugin=plugin)
            found = zip(numbers, pixels, strict=True)
            return [fit(_values(stored, header, number, rules, input_), input_) for number, stored in found]
    except _BROKEN:
        raise Unusable(Reason.DAMAGED) from None


def _check(header: Dataset) -> None:
    if not header.get("Rows") or not header.get("Columns"):
        raise Unusable(Reason.NO_PIXELS)
    if int(header.Rows) * int(header.Columns) > _MOST_PIXELS:
        raise Unusable(Reason.TOO_LARGE)
    if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        raise Unusable(Reason.BURNED_IN)
    photometric, samples = header.get("PhotometricInterpretation"), header.get("SamplesPerPixel")
    if samples != (3 if photometric in _COLOUR else 1) or photometric not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        raise Unusable(Reason.PHOTOMETRIC)
    if not _can_decode(header):
        raise Unusable(Reason.NO_DECODER)


def _can_decode(header: Dataset) -> bool:
    syntax = _syntax(header.file_meta)
    if syntax == JPEGExtended12Bit and int(header.BitsStored) > 8:
        return False  # its decoders read 8 bits only
    try:
        return get_decoder(syntax).is_available
    except NotImplementedError:
        return False


def _syntax(meta: Dataset) -> UID:
    syntax: UID = meta.TransferSyntaxUID
    return syntax


def _values(stored: Values, header: Dataset, number: int, rules: DicomRules, input_: ImageInput) -> Values:
    if header.PhotometricInterpretation not in _GREY:
        return _colour(stored, header, input_)
    inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if rules.values == "window":
        shown = _shown(_measured(stored, header, number), header, number, rules)
        scaled: Floats = input_.low + (input_.high - input_.low) * (1.0 - shown if inverted else shown)
        return scaled
    if inverted and header.get("Modality") not in _MEASURES:
        low, high = _limits(stored, header)
        stored = (low + high - stored.astype(np.float64)).clip(low, high).astype(stored.dtype)
    return _measured(stored, header, number)


def _colour(stored: Values, header: Dataset, input_: ImageInput) -> Values:
    bits = int(header.BitsStored)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, header)[..., :3]
        bits = 8 * stored.dtype.itemsize
    if bits == 8 and stored.dtype == np.uint8 and (input_.low, input_.high) == (0.0, 255.0):
        return stored
    scaled: Floats = input_.low + (input_.high - input_.low) / (2**bits - 1) * stored.astype(np.float64)
    return scaled


def _limits(stored: Values, header: Dataset) -> tuple[float, float]:
    """Smallest and largest value that a file can store."""
    if not np.issubdtype(stored.dtype, np.integer):
        return float(stored.min()), float(stored.max())
    bits = int(header.BitsStored)
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if header.PixelRepresentation else (0.0, 2.0**bits - 1)


def _measured(stored: Values, header: Dataset, number: int) -> Values:
    """The modality LUT: a table, or slope and intercept; `stored` itself where there is neither."""
    if table := header.get("ModalityLUTSequence"):
        return _looked_up(stored, table[0], header)[0]
    group = "PixelValueTransformationSequence"
    slope = _of_frame(header, number, group, "RescaleSlope")
    intercept = _of_frame(header, number, group, "RescaleIntercept")
    if slope is None:
        slope = header.get("DoseGridScaling")
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if (slope, intercept) == (1.0, 0.0):
        return stored
    measured: Floats = stored.astype(np.float64) * slope + intercept
    return measured


def _shown(values: Values, header: Dataset, number: int, rules: DicomRules) -> Floats:
    """The VOI LUT, from black 0 to white 1."""
    if rules.window:
        return _windowed(values, *rules.window, "LINEAR_EXACT")
    if table := header.get("VOILUTSequence"):
        found, bits = _looked_up(values, table[0], header)
        shown: Floats = found.astype(np.float64) / (2**bits - 1)
        return shown
    group = "FrameVOILUTSequence"
    centre, width = (_of_frame(header, number, group, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(_of_frame(header, number, group, "VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None:
        raise Unusable(Reason.NO_WINDOW)
    return _windowed(values, float(centre), float(width), function)


def _windowed(values: Values, centre: float, width: float, function: str) -> Floats:
    """PS3.3 C.11.2.1.2 (LINEAR) and C.11.2.1.3 (SIGMOID, LINEAR_EXACT)."""
    x = values.astype(np.float64)
    if not (np.isfinite(centre) and np.isfinite(width)) or width < (1.0 if function == "LINEAR" else 1e-300):
        raise Unusable(Reason.NO_WINDOW)
    match function:
        case "LINEAR" if width == 1.0:
            return (x > centre - 0.5).astype(np.float64)
        case "LINEAR":
            return ((x - (centre - 0.5)) / (width - 1.0) + 0.5).clip(0.0, 1.0)
        case "LINEAR_EXACT":
            return ((x - centre) / width + 0.5).clip(0.0, 1.0)
        case "SIGMOID":
            shown: Floats = 1.0 / (1.0 + np.exp((-4.0 * (x - centre) / width).clip(-700.0, 700.0)))
            return shown
        case _:
            raise Unusable(Reason.NO_WINDOW)


def _looked_up(values: Values, table: Dataset, header: Dataset) -> tuple[Values, int]:
    """(what a LUT of the standard makes of values, its bits); values before and behind it get its ends."""
    entries, first, bits = (int(v) for v in table.LUTDescriptor)
    data, entries = table.LUTData, entries or 1 << 16
    if isinstance(data, bytes):
        words = "<u2" if header.original_encoding[1] else ">u2"
        found = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else words)[:entries]
    else:
        found = np.asarray(data, dtype=np.uint16)
    return found[(np.rint(values).astype(np.int64) - first).clip(0, len(found) - 1)], bits


def _of_frame(header: Dataset, number: int, group: str, keyword: str) -> Any:  # noqa: ANN401 - whatever the tag holds
    """A value of one frame: its own, that of all frames, or that of the file; the first if several, None if none."""
    for sequence, position in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        items = header.get(sequence) or []
        for inner in (items[position].get(group) or [])[:1] if position < len(items) else []:
            if inner.get(keyword) is not None:
                return _single(inner.get(keyword))
    return _single(header.get(keyword))


def _single(value: Any) -> Any:  # noqa: ANN401
    return (value[0] if len(value) else None) if isinstance(value, MultiValue | list) else value


@contextmanager
def _silenced() -> Iterator[None]:
    """Without pydicom's warnings, on whatever way: they quote what patients' files say."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
