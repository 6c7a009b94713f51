"""Times of measurements as minutes since admission: numbers, hours:minutes, or dates against a date of admission."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from fedmodels.data.csvfile import numbers
from fedmodels.errors import DataError

_MINUTES = {"minutes": 1.0, "hours": 60.0}


def minutes_since_admission(cells: pl.Series, unit: str, path: Path) -> pl.Series:
    """Minutes of a column of times in minutes, hours or hh:mm; any other cell is refused."""
    if unit == "hh:mm":
        return clock_minutes(cells, path)
    return (numbers(cells, (), path) * _MINUTES[unit]).rename("minutes")


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


def minutes_between(start: pl.Series, end: pl.Series, start_path: Path, end_path: Path) -> pl.Series:
    """Minutes from `start` to `end`, two columns of ISO 8601 dates or dates and times; a date alone means midnight.

    Either both columns name time zones or neither does: a mixture is refused, as is any other form of date.
    """
    (first, first_zoned), (last, last_zoned) = _moments(start, start_path), _moments(end, end_path)
    if first_zoned != last_zoned:
        raise DataError(
            f"column `{end.name}` {'names' if last_zoned else 'does not name'} a time zone, column `{start.name}` of "
            f"{start_path.name} {'does' if first_zoned else 'does not'}",
            where=str(end_path),
            fix="write both with a time zone, or both as the clock on the ward",
        )
    return pl.Series("minutes", (last - first) / np.timedelta64(1, "s") / 60, dtype=pl.Float64)


def _moments(cells: pl.Series, path: Path) -> tuple[np.ndarray, bool]:
    """datetime64 of every cell, in UTC where they name time zones, and whether they do."""
    moments = {text: _moment(text) for text in cells.unique().to_list()}
    known = {text: moment for text, moment in moments.items() if moment is not None}
    if bad := int((~cells.is_in(list(known))).sum()):
        raise DataError(
            f"column `{cells.name}`: {bad} of {len(cells)} rows are not dates or times such as 2024-01-31 07:30",
            where=str(path),
            fix="write them in ISO 8601, year first, or set `time_unit` in the data binding",
        )
    zoned = {moment.tzinfo is not None for moment in known.values()}
    if len(zoned) > 1:
        raise DataError(
            f"column `{cells.name}`: some times name a time zone, some do not", where=str(path), fix="write them alike"
        )
    utc = {
        text: moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment for text, moment in known.items()
    }
    return np.array([utc[text] for text in cells.to_list()], dtype="datetime64[us]"), zoned == {True}


def _moment(text: str) -> datetime | None:
    # Year-first dates alone are read the same everywhere; without any separator they could be a number.
    if text[4:5] not in ("-", "/"):
        return None
    try:
        return datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        return None
