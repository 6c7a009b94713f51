"""`load`: a data binding and a study in, one `Dataset` out."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from fedmodels.data.binding import read_binding, sources
from fedmodels.data.binding_kinds import (
    DataBinding,
    DicomFolder,
    ImageFolder,
    ImageNpz,
    SeriesGrid,
    SeriesLong,
    SeriesPhysionet2012,
    TableFile,
    TextFile,
)
from fedmodels.data.csvfile import check_exists
from fedmodels.data.dataset import Dataset
from fedmodels.data.images import read_dicom_folder, read_image_folder, read_image_npz
from fedmodels.data.series import read_series
from fedmodels.data.table import read_table
from fedmodels.data.text import read_raw_texts, read_texts, seen
from fedmodels.errors import DataError
from fedmodels.files import read_text
from fedmodels.study import About
from fedmodels.study_input import ImageInput, Input, SeriesInput, TableInput, TextInput

_CACHED_POOLS = 8
_pools: OrderedDict[bytes, Dataset] = OrderedDict()


class Described(Protocol):
    """What says how records become input and labels: a study, or the card of a trained model."""

    @property
    def study(self) -> About: ...

    @property
    def input(self) -> Input: ...


def load(binding_path: Path, study: Described, *, labelled: bool = True) -> Dataset:
    """The records of one site in the study's form, for training and evaluation alike; see `Dataset`.

    labelled: refuse a binding that names no labels, as whoever trains or measures must. False is for predictions.

    Raises `FileError` for a malformed binding and `DataError` for data that do not fit it or the study; both name file
    and column and give counts, never values. A split without patients is fine, a site without any is not.

    The pool of records is kept in the process and read again when a source file changes. Bindings that differ only in
    `patients` share it: many simulated hospitals on one pool read it once. Callers must not write into the arrays.
    """
    binding = read_binding(binding_path)
    if labelled and not binding.labelled:
        raise DataError("the records have no labels", where=str(binding_path), fix=binding.HOW_TO_LABEL)
    pool = msgspec.structs.replace(binding, patients="")
    key = _key(pool, study)
    if key not in _pools:
        _pools[key] = _read(pool, study, binding_path)
        while len(_pools) > _CACHED_POOLS:
            _pools.popitem(last=False)
    _pools.move_to_end(key)
    data = _pools[key]
    if binding.patients:
        names = _listed(binding)
        data, total = data.of_patients(names), len(data)
        if not len(data):
            raise DataError(
                f"none of {total} records is of one of the {len(names)} patients listed",
                where=binding.patients,
                fix="check that the list names patients as the data do, one per line",
            )
    if not len(data):
        raise DataError("there are no records", where=str(binding_path), fix="check what the data binding points at")
    return data


def load_texts(binding_path: Path, study: Described) -> list[str]:
    """The texts that `load` made its records of, in the same order, as a model sees them."""
    binding = read_binding(binding_path)
    if not isinstance(binding, TextFile) or not isinstance(study.input, TextInput):
        raise DataError("the records are not texts", where=str(binding_path), fix="name a binding of texts")
    records, written, _ = read_raw_texts(binding, study.study.labels)
    texts = [seen(text, study.input) for text in written]
    if not binding.patients:
        return texts
    names = _listed(binding)
    return [text for patient, text in zip(records.patients.tolist(), texts, strict=True) if patient in names]


def _listed(binding: DataBinding) -> frozenset[str]:
    lines = read_text(Path(binding.patients)).splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


def _key(pool: DataBinding, study: Described) -> bytes:
    cache = getattr(pool, "cache", "")
    states = [_state(path, cache) for path in sources(pool)]
    return msgspec.json.encode((pool, study.input, study.study.labels, states), order="sorted")


def _state(path: Path, cache: str) -> tuple[str, int, int, int]:
    """Path, number of files, bytes in all, and a hash over name, size and time of each; within this process only.

    cache: a folder that is left out, since it changes with what is read here.
    """
    check_exists(path)
    count = size = mixed = 0
    for name, state in _states(path, cache):
        count, size = count + 1, size + state.st_size
        mixed ^= hash((name, state.st_size, state.st_mtime_ns))
    return str(path), count, size, mixed


def _states(path: Path, cache: str) -> Iterator[tuple[str, os.stat_result]]:
    """The file itself, or all files below the folder in any order, several times faster than pathlib finds them."""
    if not path.is_dir():
        yield str(path), path.stat()
        return
    waiting = [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [] if entry.path == cache else [entry.path]
                elif entry.is_file():
                    yield entry.path, entry.stat()


def _read(binding: DataBinding, study: Described, path: Path) -> Dataset:
    labels = study.study.labels
    match binding, study.input:
        case ImageFolder(), ImageInput():
            return read_image_folder(binding, study.input, labels)
        case DicomFolder(), ImageInput():
            return read_dicom_folder(binding, study.input, labels)
        case ImageNpz(), ImageInput():
            return read_image_npz(binding, study.input, labels)
        case SeriesLong() | SeriesGrid() | SeriesPhysionet2012(), SeriesInput():
            return read_series(binding, study.input, labels)
        case TextFile(), TextInput():
            return read_texts(binding, study.input, labels)
        case TableFile(), TableInput():
            return read_table(binding, study.input, labels)
        case _:
            kind, modality = (value.__struct_config__.tag for value in (binding, study.input))
            raise DataError(
                f"the data binding has kind `{kind}`, the study's input has modality `{modality}`",
                where=str(path),
                fix="point the binding at data of the study's modality",
            )
