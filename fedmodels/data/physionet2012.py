"""The layout of the PhysioNet/CinC Challenge 2012 (Silva et al. 2012): one text file of measurements per ICU stay."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from fedmodels.data.csvfile import check_exists, numbers, read_bytes
from fedmodels.data.encoding import decode
from fedmodels.data.times import clock_minutes
from fedmodels.errors import DataError

PATIENT, LABEL = "RecordID", "In-hospital_death"
_HEADER = "Time,Parameter,Value"
_NOT_KNOWN = -1.0
# Known only after the stay, or computed from what the label is computed from: as features they would give it away.
_OUTCOMES = frozenset({"SAPS-I", "SOFA", "Length_of_stay", "Survival", LABEL})


def check_variables(names: Sequence[str], path: Path) -> None:
    """Refuse a study that would feed outcomes of the stay, or the record's number, to a model."""
    if forbidden := sorted((_OUTCOMES | {PATIENT}) & set(names)):
        raise DataError(
            f"the study uses {', '.join(forbidden)} as input, which is only known after the stay",
            where=str(path),
            fix="remove it from the study's variables and statics",
        )


def read_stays(path: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Measurements of a folder or .tar.gz of stays: patient, variable, minutes since admission, value; all patients.

    -1 means not known and is left out. The patient is the file's name without `.txt`.
    """
    patients: list[str] = []
    sizes: list[int] = []
    lines: list[str] = []
    malformed = 0
    for name, content in _files(path):
        head, *body = decode(content, "utf-8", path)[0].splitlines() or [""]
        malformed += head.strip() != _HEADER or any(line.count(",") != 2 for line in body)
        patients.append(Path(name).stem)
        sizes.append(len(body))
        lines.extend(body)
    if not patients:
        raise DataError("holds no stay (`*.txt`)", where=str(path), fix="name the folder or archive of set-a")
    if malformed:
        raise DataError(
            f"{malformed} of {len(patients)} stays do not have three cells in every line, or not the first line "
            f"`{_HEADER}`",
            where=str(path),
            fix="bring the original again: `fedmodels data fetch`",
        )
    cells = pl.DataFrame({"line": lines}, schema={"line": pl.String}).select(
        pl.col("line").str.split_exact(",", 2).struct.rename_fields(["time", "variable", "value"]).alias("cells")
    )
    frame = cells.unnest("cells").with_columns(pl.Series("patient", _repeat(patients, sizes), dtype=pl.String))
    measured = frame.select(
        "patient", "variable", clock_minutes(frame["time"], path), numbers(frame["value"], (), path)
    ).filter(pl.col("value") != _NOT_KNOWN)
    return measured, pl.Series(patients, dtype=pl.String)


def _repeat(names: list[str], sizes: list[int]) -> list[str]:
    return [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every stay, in the order of the names."""
    check_exists(path)
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield file.name, read_bytes(file)
        return
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".txt") and (stay := archive.extractfile(member)):
                    yield member.name, stay.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        raise DataError(
            "is not a whole tar archive", where=str(path), fix="bring the original again: `fedmodels data fetch`"
        ) from None
