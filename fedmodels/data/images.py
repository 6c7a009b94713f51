"""Images from an indexed folder, a folder of DICOM files or an NPZ: [n, channels, height, width] in the study's form.

`fitting` says how one image gets there, `dicom` what its pixels mean, `store` where all of them are kept.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageOps

from fedmodels.data.apart import Apart
from fedmodels.data.binding_kinds import DicomFolder, DicomRules, ImageBinding, ImageFolder, ImageNpz
from fedmodels.data.csvfile import check_exists, read_csv, require
from fedmodels.data.dataset import TEST, TRAIN, UNLABELLED, Dataset
from fedmodels.data.dicom import chosen_frames, frame_count, is_dicom, may_crash, read_frames, read_tags
from fedmodels.data.dicomtags import read_folder
from fedmodels.data.fitting import Values, fit, fit_picture, stored_type
from fedmodels.data.npz import Array, Npz
from fedmodels.data.records import Records, label_index, rules_of, select
from fedmodels.data.store import Place, gather
from fedmodels.data.unusable import Reason, Tally, Unusable
from fedmodels.errors import DataError
from fedmodels.study_input import ImageInput

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_GREY_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "F"})
_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = (_PNG, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")
_BITS_PER_SAMPLE = 258  # TIFF 6.0, section 8
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # bytes of the header (PNG 1.2, section 11.2.2)
_UNREADABLE = (OSError, ValueError, SyntaxError)


@dataclass(frozen=True, repr=False)
class _Source:
    """The files of a data set. number: of each, from 1, for messages; place: what it counts; listing: where."""

    paths: list[Path]
    numbers: list[int]
    place: str
    listing: Path


def read_image_folder(binding: ImageFolder, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """The images that the index lists: DICOM, PNG, JPEG, TIFF or BMP. Any that cannot be used is refused."""
    folder, index = Path(binding.path), Path(binding.index)
    check_exists(folder)
    frame = read_csv(index, binding.encoding)
    require(frame, [binding.columns.file], index)
    records = select(frame, rules_of(binding, binding.columns.patient, binding.columns.label, labels), index)
    names: list[str] = [frame[binding.columns.file][row] for row in records.rows.tolist()]
    _check_owners(names, records, index)
    source = _Source([folder / name for name in names], (records.rows + 1).tolist(), "data row", index)
    counts = np.ones(len(names), dtype=np.int64)
    if binding.dicom and binding.dicom.frame == "all":
        counts = _count_frames(source)
    return _from_files(source, records, counts, binding, input_)


def read_dicom_folder(binding: DicomFolder, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """All DICOM files of the folder that pass the filter; files are numbered in the order of their paths."""
    folder = Path(binding.path)
    paths, frame = read_folder(binding)
    records = select(frame, rules_of(binding, binding.columns.patient, binding.columns.label, labels), folder)
    positions = frame["\0file"].to_numpy()[records.rows]
    source = _Source([paths[i] for i in positions], (positions + 1).tolist(), "file", folder)
    _check_owners(frame["SOPInstanceUID"].to_numpy()[records.rows].tolist(), records, folder)
    counts = frame["\0frames"].to_numpy()[records.rows]
    if binding.dicom.frame != "all":
        counts = np.ones_like(counts)
    return _from_files(source, records, counts, binding, input_)


def read_image_npz(binding: ImageNpz, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """The arrays that the binding names, train before test. Nothing in the file is ever unpickled."""
    path = Path(binding.path)
    parts = [(code, names) for code, names in ((TRAIN, binding.train), (TEST, binding.test)) if names]
    npz = Npz(path, [name for _, names in parts for name in names if name])
    raw, patients, split = [], [], []
    for code, names in parts:
        count = _check_images(npz, names[0], path)
        raw.extend(_codes(npz.whole(names[1]), names[1], count, path) if binding.labelled else [])
        patients.extend(_codes(npz.whole(names[2]), names[2], count, path) if len(names) > 2 else [])
        split.append(np.full(count, code, dtype=np.uint8))
    total = sum(map(len, split))
    if binding.labelled:
        y = label_index(pl.Series(parts[0][1][1], raw, dtype=pl.String), binding.labels, labels, path)
    else:
        y = np.full(total, UNLABELLED, dtype=np.int64)
    people = patients or [str(row) for row in range(total)]
    names_of_images = [names[0] for _, names in parts]
    place = _place(binding, [_identity(path), *names_of_images])
    x = gather(_fitted(npz, names_of_images, input_, path), total, input_, place)
    return Dataset(np.array(people, dtype=np.str_), x, y, np.concatenate(split))


def _from_files(
    source: _Source,
    records: Records,
    counts: npt.NDArray[np.int64],
    binding: ImageFolder | DicomFolder,
    input_: ImageInput,
) -> Dataset:
    """counts: [n] images in each file."""
    identities = [*map(_identity, source.paths), counts.tolist()]
    images = _decoded(source, counts.tolist(), binding.dicom, input_)
    x = gather(images, int(counts.sum()), input_, _place(binding, identities))
    return Dataset(records.patients.repeat(counts), x, records.y.repeat(counts), records.split.repeat(counts))


def _decoded(source: _Source, counts: list[int], rules: DicomRules | None, input_: ImageInput) -> Iterator[Values]:
    """Every image in order; if some cannot be used, an error that counts all of them after the last."""
    tally = Tally(source.place)
    blank = np.zeros((input_.channels, input_.height, input_.width), stored_type(input_))
    with Apart() as apart:
        for path, number, count in zip(source.paths, source.numbers, counts, strict=True):
            try:
                yield from _read_file(path, count, rules, input_, apart)
            except Unusable as unusable:
                tally.add(unusable.reason, number)
                yield from [blank] * count
    tally.check(len(source.paths), source.listing)


def _read_file(path: Path, count: int, rules: DicomRules | None, input_: ImageInput, apart: Apart) -> list[Values]:
    """The `count` images of a file."""
    if is_dicom(path):
        if rules is None:
            raise Unusable(Reason.NO_RULES)
        read = apart.read_frames if may_crash(path) else read_frames
        frames = read(path, rules, input_)
    else:
        frames = [_read_picture(path, input_)]
    if len(frames) != count:
        raise Unusable(Reason.DAMAGED)
    return frames


def _read_picture(path: Path, input_: ImageInput) -> Values:
    """PNG, JPEG, TIFF or BMP, turned as its camera noted (Exif)."""
    try:
        with path.open("rb") as file:
            return _picture(file, file.read(_PNG_COLOUR + 1), input_)
    except Image.DecompressionBombError:
        raise Unusable(Reason.TOO_LARGE) from None
    except _UNREADABLE:
        raise Unusable(Reason.DAMAGED) from None


def _picture(file: BinaryIO, head: bytes, input_: ImageInput) -> Values:
    if not head.startswith(_SIGNATURES):
        raise Unusable(Reason.UNKNOWN)
    # Pillow would cut 16-bit colours of PNG and TIFF off without saying so.
    if head.startswith(_PNG) and head[_PNG_DEPTH:_PNG_COLOUR] > b"\x08" and head[_PNG_COLOUR:] != b"\x00":
        raise Unusable(Reason.DEEP_COLOUR)
    with Image.open(file, formats=_FORMATS) as image:
        if np.max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, 8)) > 8 and image.mode in _EIGHT_BIT_MODES:
            raise Unusable(Reason.DEEP_COLOUR)
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _EIGHT_BIT_MODES:
            return fit_picture(upright, input_)
        if upright.mode in _GREY_MODES:
            return fit(np.asarray(upright), input_)
        raise Unusable(Reason.DEEP_COLOUR)


def _count_frames(source: _Source) -> npt.NDArray[np.int64]:
    """Images in each file when every frame is one. What cannot be read is counted as one, and refused when decoded."""
    counts = []
    for path in source.paths:
        try:
            counts.append(len(chosen_frames(frame_count(read_tags(path, ["NumberOfFrames"])), _ALL)))
        except Unusable:
            counts.append(1)
    return np.array(counts, dtype=np.int64)


_ALL = DicomRules(values="rescaled", frame="all")


def _check_owners(names: list[str], records: Records, where: Path) -> None:
    """Refuse an image that is listed for several patients: what one of them is promised would depend on the other."""
    owners: dict[str, str] = {}
    shared = sum(owners.setdefault(n, p) != p for n, p in zip(names, records.patients.tolist(), strict=True) if n)
    if shared:
        raise DataError(
            f"{shared} of {len(names)} records show an image that is another patient's, too",
            where=str(where),
            fix="every image must be of one patient, or privacy per patient means nothing",
        )


def _place(binding: ImageBinding, identities: Sequence[object]) -> Place:
    rules = msgspec.json.encode(getattr(binding, "dicom", None), order="sorted")
    versions = [metadata.version(name) for name in ("pillow", "pydicom", "python-gdcm")]
    key = hashlib.sha256(rules + repr((versions, *identities)).encode()).digest()
    return Place(Path(binding.cache), key)


def _identity(path: Path) -> tuple[str, int, int]:
    if not path.exists():
        return str(path), -1, -1
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns


def _check_images(npz: Npz, name: str, path: Path) -> int:
    """The number of images in an array that is one of images."""
    header = npz.headers[name]
    grey, colour = len(header.shape) == 3, len(header.shape) == 4 and header.shape[3] in (1, 3)
    if header.dtype.kind not in "uif" or not (grey or colour):
        raise DataError(
            f"array `{name}` is {header.dtype}{list(header.shape)}, not numbers [images, height, width] or "
            "[images, height, width, 1 or 3]",
            where=str(path),
            fix="write images of integers or floating-point numbers, channels last",
        )
    return header.shape[0]


def _fitted(npz: Npz, names: list[str], input_: ImageInput, path: Path) -> Iterator[Values]:
    tally, number = Tally("image"), 0
    for name in names:
        for image in npz.rows(name):
            number += 1
            try:
                yield _fit_array(image, input_)
            except Unusable as unusable:
                tally.add(unusable.reason, number)
                yield np.zeros((input_.channels, input_.height, input_.width), stored_type(input_))
    tally.check(number, path)


def _fit_array(image: Array, input_: ImageInput) -> Values:
    if not image.size:
        raise Unusable(Reason.EMPTY)
    return fit(np.ascontiguousarray(image), input_)


def _codes(array: Array, name: str, count: int, path: Path) -> list[str]:
    """Labels or patients as text, one per image."""
    flat = array.reshape(-1)
    if flat.dtype.kind not in "iuU" or len(flat) != count:
        raise DataError(
            f"array `{name}` is {array.dtype}{list(array.shape)}, not one integer or text for each of {count} images",
            where=str(path),
            fix="write one label (and one patient) per image, as integers or strings",
        )
    return [str(value) for value in flat.tolist()]
