"""Images from a folder of files or from an NPZ, as uint8 [n, channels, height, width] in the study's size."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from fedmodels.data.binding import ImageFolder, ImageNpz
from fedmodels.data.csvfile import check_exists, read_csv, require
from fedmodels.data.dataset import TEST, TRAIN, UNLABELLED, Dataset
from fedmodels.data.records import label_index, rules_of, select
from fedmodels.errors import DataError
from fedmodels.study import ImageInput

Pixels = npt.NDArray[np.uint8]
Arrays = dict[str, npt.NDArray[np.generic]]

# Anything with more than 8 bits per channel would be cut off silently by Pillow's conversion.
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def read_image_folder(binding: ImageFolder, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """The images that the index lists. One that is absent, unreadable or not 8 bits per channel is refused."""
    folder, index = Path(binding.path), Path(binding.index)
    check_exists(folder)
    frame = read_csv(index, binding.encoding)
    require(frame, [binding.columns.file], index)
    records = select(frame, rules_of(binding, binding.columns.patient, binding.columns.label, labels), index)
    names: list[str] = frame[binding.columns.file].to_list()
    x = np.empty((len(records.rows), input_.channels, input_.height, input_.width), dtype=np.uint8)
    failed: list[int] = []
    for position, row in enumerate(records.rows.tolist()):
        try:
            with Image.open(folder / names[row]) as image:
                if image.mode not in _EIGHT_BIT_MODES:
                    failed.append(row)
                    continue
                x[position] = _fit(image, input_)
        except _UNREADABLE:
            failed.append(row)
    if failed:
        raise DataError(
            f"{len(failed)} of {len(x)} images are absent, unreadable or not 8 bits per channel; the first is listed "
            f"in data row {failed[0] + 1}",
            where=str(index),
            fix="correct the column of files, or export the images as 8-bit PNG or JPEG",
        )
    return Dataset(records.patients, x, records.y, records.split)


def read_image_npz(binding: ImageNpz, input_: ImageInput, labels: tuple[str, ...]) -> Dataset:
    """The arrays that the binding names, train before test. Nothing in the file is ever unpickled."""
    path = Path(binding.path)
    parts = [(code, names) for code, names in ((TRAIN, binding.train), (TEST, binding.test)) if names]
    arrays = _load_arrays(path, [name for _, names in parts for name in names if name])
    images, raw, patients, split = [], [], [], []
    for code, names in parts:
        x = _uniform(arrays[names[0]], names[0], input_, path)
        images.append(x)
        raw.extend(_codes(arrays[names[1]], names[1], len(x), path) if binding.labelled else [])
        patients.extend(_codes(arrays[names[2]], names[2], len(x), path) if len(names) > 2 else [])
        split.append(np.full(len(x), code, dtype=np.uint8))
    pixels = np.concatenate(images)
    if binding.labelled:
        y = label_index(pl.Series(parts[0][1][1], raw, dtype=pl.String), binding.labels, labels, path)
    else:
        y = np.full(len(pixels), UNLABELLED, dtype=np.int64)
    people = patients or [str(row) for row in range(len(pixels))]
    return Dataset(np.array(people, dtype=np.str_), pixels, y, np.concatenate(split))


def _load_arrays(path: Path, names: Sequence[str]) -> Arrays:
    check_exists(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError("holds one array, not an NPZ", where=str(path), fix="write it with numpy.savez")
            if absent := [name for name in names if name not in archive.files]:
                raise DataError(
                    f"no array {', '.join(absent)}",
                    where=str(path),
                    fix=f"it has: {', '.join(archive.files)}; correct `train` and `test` in the data binding",
                )
            return {name: archive[name] for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise DataError(
            "is not an NPZ of plain arrays", where=str(path), fix="write it with numpy.savez, without Python objects"
        ) from None


def _uniform(array: npt.NDArray[np.generic], name: str, input_: ImageInput, path: Path) -> Pixels:
    grey, colour = array.ndim == 3, array.ndim == 4 and array.shape[3] in (1, 3)
    if array.dtype != np.uint8 or not (grey or colour):
        raise DataError(
            f"array `{name}` is {array.dtype}{list(array.shape)}, not uint8 [images, height, width] or "
            "[images, height, width, 1 or 3]",
            where=str(path),
            fix="write 8-bit images, channels last",
        )
    pixels: Pixels = array[..., None] if grey else array  # type: ignore[assignment]
    if pixels.shape[1:] == (input_.height, input_.width, input_.channels):
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    fitted = [_fit(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), input_) for image in pixels]
    return np.stack(fitted) if fitted else np.empty((0, input_.channels, input_.height, input_.width), dtype=np.uint8)


def _fit(image: Image.Image, input_: ImageInput) -> Pixels:
    """[channels, height, width] of one image, converted and then resized bilinearly where the study asks for it."""
    converted = image.convert("L" if input_.channels == 1 else "RGB")
    if converted.size != (input_.width, input_.height):
        converted = converted.resize((input_.width, input_.height), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(converted, dtype=np.uint8)).transpose(2, 0, 1)


def _codes(array: npt.NDArray[np.generic], name: str, count: int, path: Path) -> list[str]:
    """Labels or patients as text, one per image."""
    flat = array.reshape(-1)
    if flat.dtype.kind not in "iuU" or len(flat) != count:
        raise DataError(
            f"array `{name}` is {array.dtype}{list(array.shape)}, not one integer or text for each of {count} images",
            where=str(path),
            fix="write one label (and one patient) per image, as integers or strings",
        )
    return [str(value) for value in flat.tolist()]
