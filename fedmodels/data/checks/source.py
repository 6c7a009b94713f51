"""What the study's form hides: where each record stands in the file, its values before clipping, its size and language.

Read once more from the files that the binding names. A kind of binding that this module does not know leaves the
records numbered as they were read, and the checks that need the originals out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from fedmodels.data.binding import read_binding
from fedmodels.data.binding_kinds import (
    ROW,
    DataBinding,
    ImageFolder,
    SeriesGrid,
    SeriesLong,
    SeriesPhysionet2012,
    TableFile,
    TextFile,
)
from fedmodels.data.csvfile import canonical, canonical_code, numbers
from fedmodels.data.dataset import Dataset
from fedmodels.data.measurements import SeriesBinding, in_units, read_measurements
from fedmodels.data.physionet2012 import LABEL, PATIENT
from fedmodels.data.records import rules_of, select
from fedmodels.data.rowfile import Reader
from fedmodels.data.units import conversions
from fedmodels.errors import DataError
from fedmodels.files import read_text
from fedmodels.study import Study
from fedmodels.study_input import Column, SeriesInput, TableInput

_HAN = r"[\u3400-\u4dbf\u4e00-\u9fff]"
_LETTER = r"\p{L}"


@dataclass(frozen=True, repr=False)
class Measured:
    """Every value of one variable in the study's unit [m], and the record of each [m]."""

    values: npt.NDArray[np.float64]
    record: npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Source:
    """n records before they took the study's form.

    rows: [n] numbers from 1 of the data rows (of the outcomes, for series), for whoever looks a record up.
    bound: names of the columns that the binding reads as patient, label or split. chosen: of those by which it chooses
    records, which are the same for all of them on purpose.
    values: of numeric columns, variables and statics. unmatched: [n] whether a cell of a category is none of the
    study's values and no missing marker. han: [n] share of Chinese among the letters of a text. sizes: [n, 2] width and
    height of image files, 0 where not known.
    """

    rows: npt.NDArray[np.int64]
    bound: frozenset[str] = frozenset()
    chosen: frozenset[str] = frozenset()
    values: dict[str, Measured] = field(default_factory=dict)
    unmatched: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    han: npt.NDArray[np.float64] | None = None
    sizes: npt.NDArray[np.int64] | None = None


def read_source(binding_path: Path, study: Study, data: Dataset) -> Source:
    """The originals of the records that `load` has read from the same files."""
    binding = read_binding(binding_path)
    match binding, study.input:
        case TableFile(), TableInput():
            source = _table(binding, study.input, study.study.labels)
        case TextFile(), _:
            source = _texts(binding, study.study.labels)
        case ImageFolder(), _ if not (binding.dicom and binding.dicom.frame == "all"):  # else files are not records
            source = _images(binding, study.study.labels)
        case SeriesLong() | SeriesGrid() | SeriesPhysionet2012(), SeriesInput():
            return _series(binding, study.input, data)
        case _:
            return Source(_numbered(len(data)), _bound(binding), frozenset(binding.where))
    if len(source.rows) != len(data):
        if isinstance(binding, ImageFolder):  # files of several images
            return Source(_numbered(len(data)), _bound(binding), frozenset(binding.where))
        raise DataError(
            "the files have changed while they were checked", where=str(binding_path), fix="run the check again"
        )
    return source


def _numbered(count: int) -> npt.NDArray[np.int64]:
    return np.arange(1, count + 1, dtype=np.int64)


def _bound(binding: DataBinding) -> frozenset[str]:
    columns = getattr(binding, "columns", None)
    split = getattr(binding, "split", None)
    names = {getattr(columns, "patient", ""), getattr(columns, "label", None) or ""}
    if split is not None and not split.file:
        names.add(split.column)
    if isinstance(binding, SeriesPhysionet2012):
        names |= {PATIENT, LABEL}
    return frozenset(names - {"", ROW})


def _chosen(
    binding: TableFile | TextFile | ImageFolder, labels: tuple[str, ...], frame: pl.DataFrame, path: Path
) -> pl.DataFrame:
    """The rows that became records, in their order, with their numbers in column `\\0row`."""
    records = select(frame, rules_of(binding, binding.columns.patient, binding.columns.label, labels), path)
    rows = records.rows
    if binding.patients:
        names = [line.strip() for line in read_text(Path(binding.patients)).splitlines()]
        rows = rows[np.isin(records.patients, names)]
    chosen: pl.DataFrame = frame[rows.tolist()]
    return chosen.with_columns(pl.Series("\0row", rows + 1, dtype=pl.Int64))


def _table(binding: TableFile, input_: TableInput, labels: tuple[str, ...]) -> Source:
    path = Path(binding.path)
    frame = _chosen(binding, labels, Reader(binding.encoding).rows(path, binding.header), path)
    found = conversions(input_.columns, binding.units, path)
    values, unmatched = {}, {}
    for column in input_.columns:
        if column.kind == "category":
            unmatched[column.name] = _unmatched(frame, column, binding.missing)
        else:
            factor, offset = found.get(column.name, (1.0, 0.0))
            cells = numbers(frame[column.name], binding.missing, path).to_numpy()
            values[column.name] = _measured(cells * factor + offset)
    return Source(frame["\0row"].to_numpy(), _bound(binding), frozenset(binding.where), values, unmatched)


def _unmatched(frame: pl.DataFrame, column: Column, missing: Sequence[str]) -> npt.NDArray[np.bool_]:
    cells = frame.select(canonical(column.name)).to_series()
    known = [canonical_code(value) for value in (*column.values, *missing)]
    return (~cells.is_in(known)).fill_null(value=False).to_numpy()


def _measured(values: npt.NDArray[np.float64]) -> Measured:
    there = np.flatnonzero(np.isfinite(values))
    return Measured(values[there], there.astype(np.int64))


def _texts(binding: TextFile, labels: tuple[str, ...]) -> Source:
    path = Path(binding.path)
    frame = _chosen(binding, labels, Reader(binding.encoding).rows(path), path)
    text = pl.concat_str(list(binding.columns.text), separator="\n", ignore_nulls=True)
    counts = frame.select(text.str.count_matches(_HAN).alias("han"), text.str.count_matches(_LETTER).alias("letter"))
    han = counts["han"].to_numpy() / np.maximum(counts["letter"].to_numpy(), 1)
    return Source(frame["\0row"].to_numpy(), _bound(binding), han=han)


def _images(binding: ImageFolder, labels: tuple[str, ...]) -> Source:
    index, folder = Path(binding.index), Path(binding.path)
    frame = _chosen(binding, labels, Reader(binding.encoding).rows(index), index)
    sizes = np.zeros((len(frame), 2), dtype=np.int64)
    for number, name in enumerate(frame[binding.columns.file].to_list()):
        try:
            with Image.open(folder / name) as image:  # reads the header alone
                sizes[number] = image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # a format that Pillow does not know; `load` has read it
    return Source(frame["\0row"].to_numpy(), _bound(binding), sizes=sizes)


def _series(binding: SeriesBinding, input_: SeriesInput, data: Dataset) -> Source:
    measured, _ = read_measurements(binding, input_, Reader(binding.encoding))
    measured = in_units(measured, input_, binding.units, Path(binding.path))
    order = pl.DataFrame({"patient": data.patients.tolist()}).with_row_index("record")
    found = measured.join(order, on="patient", how="inner")
    values = {}
    for variable in (*input_.variables, *input_.statics):
        of_it = found.filter(pl.col("variable") == variable.name)
        values[variable.name] = Measured(of_it["value"].to_numpy(), of_it["record"].cast(pl.Int64).to_numpy())
    return Source(_numbered(len(data)), _bound(binding), frozenset(binding.where), values)
