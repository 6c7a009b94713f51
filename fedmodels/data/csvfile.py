"""Strict reading of the CSV files that hospitals export: every cell as text, nothing guessed, nothing padded."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from fedmodels.data.encoding import decode
from fedmodels.errors import DataError

_CHUNK = 20_000
_INTEGER = r"^([+-]?\d+)\.0*$"


def read_csv(path: Path, encoding: str, header: Sequence[str] = ()) -> pl.DataFrame:
    """All rows as stripped strings; `header` names the columns of a file without a first line of names.

    encoding: a codec's name, or `encoding.DETECT`. Errors as of `parse_csv`.
    """
    return parse_csv(decode(read_bytes(path), encoding, path)[0], path, header)


def parse_csv(text: str, path: Path, header: Sequence[str] = (), separator: str = ",") -> pl.DataFrame:
    """All rows of a text as stripped strings. Blank lines are skipped.

    A row with too few or too many cells, an unclosed quote and a doubled column name are `DataError`s that name the
    first line at fault. Memory: a few times the text's, however many rows there are.
    """
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows = _rows(lines, path)
    names = list(header) if header else [name.strip() for name in next(rows, [])]
    _check_names(names, path)
    parts, wrong, total = [_frame(names, [])], [], 0
    while chunk := list(itertools.islice(rows, _CHUNK)):
        total += len(chunk)
        wrong += [number for number, row in enumerate(chunk, total - len(chunk) + 1) if len(row) != len(names)]
        if not wrong:
            parts.append(_frame(names, chunk))
    if wrong:
        raise DataError(
            f"{len(wrong)} of {total} rows do not have {len(names)} cells, the first is row {wrong[0]}",
            where=str(path),
            fix="check separator and quotes" + (" and the binding's `header`" if header else ""),
        )
    return pl.concat(parts)


def _check_names(names: Sequence[str], path: Path) -> None:
    if not names:
        raise DataError("the file is empty", where=str(path), fix="export it again")
    if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), "")):
        mark = {";": "semicolons", "\t": "tabs (name it .tsv)", "|": "bars"}[other]
        raise DataError(f"its cells seem to be separated by {mark}", where=str(path), fix="export it with commas")
    if len(set(names)) != len(names):
        raise DataError("a column name occurs twice", where=str(path), fix="check its first line of names")


def _frame(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pl.DataFrame:
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
    """float64 with null for the `missing` markers; any other cell that is not a finite number is refused.

    The message says what most of the refused cells look like, where that is known.
    """
    absent = cells.is_null() | cells.is_in(list(missing))
    values = cells.cast(pl.Float64, strict=False)
    wrong = ~absent & ~values.is_finite().fill_null(value=False)
    if bad := int(wrong.sum()):
        seen, fix = _looks(cells.filter(wrong).str.strip_chars())
        raise DataError(f"column `{cells.name}`: {bad} of {len(cells)} rows are {seen}", where=str(path), fix=fix)
    return values.set(absent, None)


_NOT_FINITE = r"^[+-]?([Nn][Aa][Nn]|[Ii][Nn][Ff]([Ii][Nn][Ii][Tt][Yy])?)$"
_LOOKS = (
    (_NOT_FINITE, "nan or infinite", "if they mean `not known`, list their text under `missing` in the data binding"),
    (
        r"^(\d{4}[-/.年]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2})",
        "dates, not numbers",
        'for times of measurements set `time_unit = "datetime"` and name the `admission` column in the data binding; '
        "elsewhere export an age or a duration",
    ),
    (r"^[+-]?\d+,\d+$", "not numbers: they have a decimal comma", "export numbers with a decimal point"),
    (
        r"^[<>≤≥]=?\s*\d",
        "not numbers but bounds such as < or >",
        "export the bound itself, or list these texts under `missing` in the data binding",
    ),
)


def _looks(cells: pl.Series) -> tuple[str, str]:
    """What cells that are no numbers are instead, and what to do: by the form that most of them have, if known."""
    for pattern, seen, fix in _LOOKS:
        if int(cells.str.contains(pattern).sum()) * 2 > len(cells):
            return seen, fix
    return "not numbers", "if they mean `not known`, list their text under `missing` in the data binding"


def _rows(lines: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from filter(None, lines)
    except csv.Error:
        raise DataError(
            "is not valid CSV", where=str(path), fix="check for an unclosed quotation mark, or a cell of a megabyte"
        ) from None
