"""From rows of codes to records: filter, patient, split and label, the same for every kind of data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmodels.data.binding_kinds import ROW, RowBinding, Split
from fedmodels.data.csvfile import canonical, canonical_code, require
from fedmodels.data.dataset import TEST, TRAIN, UNLABELLED
from fedmodels.data.rowfile import Reader
from fedmodels.errors import DataError

_NO_LABEL = ("", "nan", "na", "n/a", "null", "none", "?")
_SALT = b"fedmodels/test-split/v1\0"


@dataclass(frozen=True, repr=False)
class Records:
    """Who, what and which split, for the rows `rows` (int64, ascending) of the file that they come from."""

    rows: npt.NDArray[np.int64]
    patients: npt.NDArray[np.str_]
    y: npt.NDArray[np.int64]
    split: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rules:
    """How the columns of a file become records. labels: study labels in order; names: label of each raw value.

    label: None for unlabelled records. split: None makes all of them test records. reader: of the binding's files.
    """

    patient: str
    label: str | None
    split: Split | None
    where: Mapping[str, str]
    names: Mapping[str, str]
    labels: tuple[str, ...]
    reader: Reader


def rules_of(binding: RowBinding, patient: str, label: str | None, labels: tuple[str, ...]) -> Rules:
    """The rules that a binding states, for its columns of patients and labels."""
    return Rules(patient, label, binding.split, binding.where, binding.labels, labels, Reader(binding.encoding))


def select(frame: pl.DataFrame, rules: Rules, path: Path) -> Records:
    """The records of a file of rows; `DataError` (columns and counts only) for whatever does not fit the rules."""
    split_column = rules.split.column if rules.split and not rules.split.file else ""
    named = [rules.label, *rules.where, split_column, rules.patient if rules.patient != ROW else ""]
    require(frame, [column for column in named if column], path)
    numbered = frame.with_row_index("\0row")
    patient = pl.col("\0row").cast(pl.String) if rules.patient == ROW else pl.col(rules.patient)
    kept = numbered.with_columns(patient.alias("\0patient")).filter(
        *[canonical(column) == canonical_code(value) for column, value in rules.where.items()]
    )
    if not len(kept):
        raise DataError(
            f"none of {len(frame)} rows passes the filter `where`" if rules.where else "the file has no rows",
            where=str(path),
            fix="check `where` in the data binding" if rules.where else "export it again",
        )
    if unnamed := int((kept["\0patient"] == "").sum()):
        raise DataError(
            f"column `{rules.patient}`: {unnamed} of {len(kept)} rows have no patient",
            where=str(path),
            fix="every record must say whose it is, or privacy per patient means nothing",
        )
    kept = _with_split(kept, rules, path)
    if rules.label is None:
        y = np.full(len(kept), UNLABELLED, dtype=np.int64)
    else:
        y = label_index(kept.select(canonical(rules.label)).to_series(), rules.names, rules.labels, path)
    return Records(
        kept["\0row"].cast(pl.Int64).to_numpy(),
        np.array(kept["\0patient"].to_list(), dtype=np.str_),
        y,
        kept["\0split"].cast(pl.UInt8).to_numpy(),
    )


def label_index(raw: pl.Series, names: Mapping[str, str], labels: tuple[str, ...], path: Path) -> npt.NDArray[np.int64]:
    """[n] index into the study's labels; missing and unknown labels are refused with their number only."""
    known = {canonical_code(value): name for value, name in names.items()} or {label: label for label in labels}
    if outside := sorted(set(known.values()) - set(labels)):
        raise DataError(
            f"`labels` of the data binding names {', '.join(outside)}, which the study does not have",
            where=str(path),
            fix=f"the study's labels are: {', '.join(labels)}",
        )
    cells = raw.to_list()
    missing = sum(cell not in known and (cell or "").lower() in _NO_LABEL for cell in cells)
    if missing:
        raise DataError(
            f"column `{raw.name}`: {missing} of {len(cells)} records have no label",
            where=str(path),
            fix="leave these records out of the export, or name their text under `labels`",
        )
    if unknown := sum(cell not in known for cell in cells):
        raise DataError(
            f"column `{raw.name}`: {unknown} of {len(cells)} records have a label that is not in the binding's "
            f"`labels` ({', '.join(known)})",
            where=str(path),
            fix="add a line for it under `labels`, or filter these records out with `where`",
        )
    index = {label: number for number, label in enumerate(labels)}
    return np.array([index[known[cell]] for cell in cells], dtype=np.int64)


def is_test(patient: str, fraction: float) -> bool:
    """Whether a patient is a test patient: a function of its name alone, true for about `fraction` of all names."""
    digest = hashlib.sha256(_SALT + patient.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _with_split(frame: pl.DataFrame, rules: Rules, path: Path) -> pl.DataFrame:
    split = rules.split
    if split is None:
        return frame.with_columns(pl.lit(TEST, dtype=pl.UInt8).alias("\0split"))
    if split.test_fraction is not None:
        fraction = split.test_fraction
        values = [TEST if is_test(patient, fraction) else TRAIN for patient in frame["\0patient"].to_list()]
        return frame.with_columns(pl.Series("\0split", values, dtype=pl.UInt8))
    if not split.file:
        return frame.with_columns(_split_codes(frame[split.column], split, path))
    file = Path(split.file)
    listed = _read_split(file, split, rules.reader)
    joined = frame.join(listed, on="\0patient", how="inner", maintain_order="left")
    if not len(joined):
        raise DataError(
            f"none of {len(frame)} records is of a patient that the split file lists",
            where=str(file),
            fix=f"check that `split.patient` (`{split.patient}`) is named as in the data",
        )
    return joined


def _read_split(file: Path, split: Split, reader: Reader) -> pl.DataFrame:
    table = reader.rows(file)
    require(table, [split.patient, split.column, *split.where], file)
    table = table.filter(*[canonical(column) == canonical_code(value) for column, value in split.where.items()])
    if doubled := len(table) - table[split.patient].n_unique():
        raise DataError(
            f"column `{split.patient}`: {doubled} of {len(table)} rows repeat a patient",
            where=str(file),
            fix="list every patient once, or narrow the file with `split.where`",
        )
    return table.select(pl.col(split.patient).alias("\0patient"), _split_codes(table[split.column], split, file))


def _split_codes(cells: pl.Series, split: Split, path: Path) -> pl.Series:
    codes = {split.train: TRAIN, split.test: TEST}
    if unknown := int((~cells.is_in(list(codes))).sum()):
        raise DataError(
            f"column `{cells.name}`: {unknown} of {len(cells)} rows are neither `{split.train}` nor `{split.test}`",
            where=str(path),
            fix="name the words that the file uses under `split.train` and `split.test`",
        )
    return pl.Series("\0split", [codes[cell] for cell in cells.to_list()], dtype=pl.UInt8)
