"""Files of rows, whatever their format: every cell as the text that a CSV would hold, nothing guessed.

The format follows from the end of the name: `.parquet`, `.jsonl` or `.ndjson`, `.tsv`; `.xlsx` and packed files are
refused; everything else is CSV with commas. Typed columns of Parquet become text without loss: nulls are empty cells,
dates and times ISO 8601, numbers their shortest exact form. Lines of JSON keep their numbers as written.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from fedmodels.data.csvfile import check_exists, parse_csv, read_bytes
from fedmodels.data.encoding import DETECT, decode
from fedmodels.errors import DataError

_CHUNK = 20_000
_PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z")
_FOREIGN = (".xlsx", ".xls", ".ods", ".sav", ".dta", ".sas7bdat", ".rds", ".feather", ".arrow", ".json")


@dataclass(frozen=True)
class Reader:
    """Reads the files that one binding names.

    encoding: of all of them, or `encoding.DETECT`. notes: what a person should know about what was read, one sentence
    each, columns and counts only.
    """

    encoding: str
    notes: list[str] = field(default_factory=list)

    def rows(self, path: Path, header: Sequence[str] = ()) -> pl.DataFrame:
        """All rows as stripped strings, "" for what is missing.

        header: names of the columns of a CSV without a first line of names. `DataError` for what cannot be read.
        """
        suffix = path.suffix.lower()
        _refuse_foreign(suffix, path)
        if header and suffix in (".parquet", ".jsonl", ".ndjson"):
            raise DataError(
                f"`header` is for CSV files, a {suffix[1:]} file names its columns itself",
                where=str(path),
                fix="leave `header` out of the data binding",
            )
        if suffix == ".parquet":
            return _read_parquet(path)
        text = self._text(path)
        if suffix in (".jsonl", ".ndjson"):
            return _parse_json_lines(text, path)
        return parse_csv(text, path, header, "\t" if suffix == ".tsv" else ",")

    def _text(self, path: Path) -> str:
        text, found = decode(read_bytes(path), self.encoding, path)
        if self.encoding == DETECT and found != "utf-8":
            self.notes.append(
                f"a file is not UTF-8 and was read as {found}: set `encoding` in the data binding if that is right"
            )
        return text


def _refuse_foreign(suffix: str, path: Path) -> None:
    if suffix in _PACKED:
        raise DataError(f"is packed ({suffix})", where=str(path), fix="unpack it and name the file inside")
    if suffix in _FOREIGN:
        raise DataError(
            f"{suffix} files are not read", where=str(path), fix="export it as CSV in UTF-8, Parquet or JSON lines"
        )


# --- Parquet --------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> pl.DataFrame:
    check_exists(path)
    try:
        frame = pl.read_parquet(io.BytesIO(read_bytes(path)))
    except (PolarsError, OSError):
        raise DataError("is not a whole Parquet file", where=str(path), fix="export it again") from None
    if not frame.columns:
        raise DataError("the file is empty", where=str(path), fix="export it again")
    return frame.select(_as_text(name, dtype, path) for name, dtype in frame.schema.items())


def _as_text(name: str, dtype: pl.DataType, path: Path) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        zone = "" if dtype.time_zone is None else "%:z"
        text = column.dt.strftime(f"%Y-%m-%dT%H:%M:%S%.f{zone}")
    elif isinstance(dtype, pl.Date):
        text = column.dt.strftime("%Y-%m-%d")
    elif dtype.is_numeric() or isinstance(dtype, pl.String | pl.Boolean | pl.Categorical | pl.Enum | pl.Time | pl.Null):
        text = column.cast(pl.String)
    else:
        raise DataError(
            f"column `{name}` holds {dtype.base_type().__name__.lower()} values, which a cell of a table cannot be",
            where=str(path),
            fix="leave the column out of the file, or make it numbers, text or dates",
        )
    return text.str.strip_chars().fill_null("")


# --- lines of JSON --------------------------------------------------------------------------------------------------


def _parse_json_lines(text: str, path: Path) -> pl.DataFrame:
    parts: list[pl.DataFrame] = []
    objects: list[dict[str, str | None]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            objects.append(_flat(line, number, path))
        if len(objects) == _CHUNK:
            parts.append(_json_frame(objects))
            objects = []
    if objects:
        parts.append(_json_frame(objects))
    if not parts:
        raise DataError("the file is empty", where=str(path), fix="export it again")
    # Blank columns: objects of a chunk, or all of them, may lack a key that others have.
    return pl.concat(parts, how="diagonal").with_columns(pl.all().str.strip_chars().fill_null(""))


def _json_frame(objects: Sequence[dict[str, str | None]]) -> pl.DataFrame:
    names = dict.fromkeys(name for one in objects for name in one)
    if not names:
        return pl.DataFrame({"": pl.Series([None] * len(objects), dtype=pl.String)})
    return pl.DataFrame({name: pl.Series([one.get(name) for one in objects], dtype=pl.String) for name in names})


def _flat(line: str, number: int, path: Path) -> dict[str, str | None]:
    def refuse(what: str) -> DataError:
        return DataError(
            f"line {number} {what}", where=str(path), fix="write one flat object of text and numbers on every line"
        )

    try:
        value = _DECODE(line)
    except (ValueError, RecursionError):
        raise refuse("is not one JSON object with different keys") from None
    if not isinstance(value, dict):
        raise refuse("is not a JSON object")
    if nested := [name for name, cell in value.items() if isinstance(cell, dict | list)]:
        raise refuse(f"has a nested value in `{nested[0]}`")
    return {name: str(cell).lower() if isinstance(cell, bool) else cell for name, cell in value.items()}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("doubled key")
    return found


def _no_constant(_: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


_DECODE: Callable[[str], object] = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=_no_constant
).decode
