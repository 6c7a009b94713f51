"""Strict reading of the CSV files that hospitals export: every cell as text, nothing guessed, nothing padded."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from fedmodels.errors import DataError

_INTEGER = r"^([+-]?\d+)\.0*$"


def read_csv(path: Path, encoding: str, header: Sequence[str] = ()) -> pl.DataFrame:
    """All rows as stripped strings; `header` names the columns of a file without a first line of names.

    Blank lines are skipped. A missing file, a wrong encoding, a row with too few or too many cells, an unclosed quote
    and a doubled column name are `DataError`s.
    """
    text = decode(read_bytes(path), encoding, path)
    rows = [row for row in _rows(text, path) if row]
    names = list(header) if header else [name.strip() for name in (rows.pop(0) if rows else [])]
    if not names:
        raise DataError("the file is empty", where=str(path), fix="export it again")
    if len(set(names)) != len(names):
        raise DataError("a column name occurs twice", where=str(path), fix="check its first line of names")
    if ragged := sum(len(row) != len(names) for row in rows):
        raise DataError(
            f"{ragged} of {len(rows)} rows do not have {len(names)} cells",
            where=str(path),
            fix="check separator and quotes" + (" and the binding's `header`" if header else ""),
        )
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    series = {name: pl.Series(list(cells), dtype=pl.String) for name, cells in zip(names, columns, strict=True)}
    return pl.DataFrame(series).with_columns(pl.all().str.strip_chars())


def read_bytes(path: Path) -> bytes:
    """The content of a data file; `DataError` when it is absent or not readable."""
    check_exists(path)
    try:
        return path.read_bytes()
    except OSError:
        raise DataError("cannot be read", where=str(path), fix="check that it is a file and its permissions") from None


def check_exists(path: Path) -> None:
    """Refuse a path of the binding that leads nowhere."""
    if not path.exists():
        raise DataError(
            "no such file or folder",
            where=str(path),
            fix="correct the path in the data binding, or bring the data (public sets: `fedmodels data fetch`)",
        )


def decode(content: bytes, encoding: str, path: Path) -> str:
    """The text of a file; a byte order mark is dropped."""
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise DataError(
            f"is not {encoding} text", where=str(path), fix="set `encoding` in the data binding (utf-8, gb18030, ...)"
        ) from None


def require(frame: pl.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Refuse a file that lacks one of `columns`."""
    if absent := [name for name in dict.fromkeys(columns) if name not in frame.columns]:
        raise DataError(
            f"no column {', '.join(f'`{name}`' for name in absent)}",
            where=str(path),
            # The names found are not quoted: where a first line of names is missing, they are a patient's cells.
            fix=f"compare its first line of {len(frame.columns)} names with the binding and the study",
        )


def canonical(column: str) -> pl.Expr:
    """The cells of a column of codes, so that 1, 1. and 1.0 are the same code."""
    return pl.col(column).str.replace(_INTEGER, "$1")


def canonical_code(value: str) -> str:
    """What `canonical` makes of one value."""
    return re.sub(_INTEGER, r"\1", value)


def numbers(cells: pl.Series, missing: Sequence[str], path: Path) -> pl.Series:
    """float64 with null for the `missing` markers; any other cell that is not a finite number is refused."""
    absent = cells.is_null() | cells.is_in(list(missing))
    values = cells.cast(pl.Float64, strict=False)
    if bad := int((~absent & ~values.is_finite().fill_null(value=False)).sum()):
        raise DataError(
            f"column `{cells.name}`: {bad} of {len(cells)} rows are not numbers",
            where=str(path),
            fix="if they mean `not known`, list their text under `missing` in the data binding",
        )
    return values.set(absent, None)


def _rows(text: str, path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        raise DataError("is not valid CSV", where=str(path), fix="check for an unclosed quotation mark") from None


def clock_minutes(cells: pl.Series, path: Path) -> pl.Series:
    """Minutes of a column of times since admission written as hours:minutes; other forms are refused."""
    matched = cells.str.extract_groups(r"^(\d+):([0-5]\d)$").struct.rename_fields(["hours", "rest"])
    parts = matched.struct.unnest().cast(pl.Float64)
    minutes = (parts["hours"] * 60 + parts["rest"]).rename("minutes")
    if bad := minutes.null_count():
        raise DataError(
            f"column `{cells.name}`: {bad} of {len(cells)} times are not hours:minutes",
            where=str(path),
            fix="write times since admission as 07:30, or set `time_unit` in the data binding",
        )
    return minutes
