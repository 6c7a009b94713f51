"""Which DICOM files a folder holds, and what their tags say: a row per file, with the tags that the binding names only.

A folder is an export: every file in it is expected to be DICOM, but for `DICOMDIR`, names that begin with a dot, and
what belongs to the binding.
"""

import os
from pathlib import Path

import polars as pl
from pydicom.datadict import tag_for_keyword

from fedmodels.data.binding_kinds import ROW, DicomFolder
from fedmodels.data.csvfile import check_exists, read_csv, require
from fedmodels.data.dicom import frame_count, read_tags, text_of
from fedmodels.data.unusable import Tally, Unusable
from fedmodels.errors import DataError

_ALWAYS = ["SOPInstanceUID", "NumberOfFrames"]


def read_folder(binding: DicomFolder) -> tuple[list[Path], pl.DataFrame]:
    """(all files in the order of their paths, a row per file that `outcomes` lists).

    Columns: the tags and columns that the binding names, as text, "" where a file lacks a tag; SOPInstanceUID;
    `\\0file`, the file's position; `\\0frames`, how many it has.
    """
    folder = Path(binding.path)
    check_exists(folder)
    paths = _files(folder, binding)
    if not paths:
        raise DataError("the folder is empty", where=str(folder), fix="check `path` in the data binding")
    outcomes = _outcomes(binding)
    listed = set() if outcomes is None else set(outcomes.columns)
    keys = [] if outcomes is None else [binding.columns.key]
    keywords = [*keys, *(name for name in _named(binding) if name not in listed)]
    _check_keywords(keywords, binding)
    frame = _read(paths, list(dict.fromkeys([*keywords, *_ALWAYS])), folder)
    return paths, frame if outcomes is None else _joined(frame, outcomes, binding)


def _files(folder: Path, binding: DicomFolder) -> list[Path]:
    own = {binding.outcomes, binding.patients, binding.split.file if binding.split else ""}
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if str(Path(base) / name) != binding.cache]
        found += [Path(base) / name for name in names if name != "DICOMDIR" and not name.startswith(".")]
    return sorted(path for path in found if path.suffix != ".toml" and str(path) not in own)


def _named(binding: DicomFolder) -> list[str]:
    """What the binding reads of every file or row of outcomes."""
    columns, split = binding.columns, binding.split
    names = ["" if columns.patient == ROW else columns.patient, columns.label or "", *binding.where]
    if split and not split.file:
        names.append(split.column)
    return [name for name in dict.fromkeys(names) if name]


def _check_keywords(keywords: list[str], binding: DicomFolder) -> None:
    if unknown := [name for name in keywords if tag_for_keyword(name) is None]:
        places = "nor columns of `outcomes`" if binding.outcomes else "and there are no `outcomes`"
        raise DataError(
            f"{', '.join(f'`{name}`' for name in unknown)}: no keywords of DICOM tags, {places}",
            where=binding.path,
            fix="name tags as the DICOM standard does: PatientID, Modality, ViewPosition, ...",
        )


def _read(paths: list[Path], keywords: list[str], folder: Path) -> pl.DataFrame:
    tally = Tally("file")
    rows: list[list[str]] = []
    frames: list[int] = []
    for number, path in enumerate(paths, 1):
        try:
            header = read_tags(path, keywords)
            frames.append(frame_count(header))
            rows.append([text_of(header, keyword) for keyword in keywords])
        except Unusable as unusable:
            tally.add(unusable.reason, number)
    tally.check(len(paths), folder)
    columns = {keyword: pl.Series([row[i] for row in rows], dtype=pl.String) for i, keyword in enumerate(keywords)}
    numbers = {"\0file": range(len(paths)), "\0frames": frames}
    return pl.DataFrame(columns | {name: pl.Series(list(v), dtype=pl.Int64) for name, v in numbers.items()})


def _outcomes(binding: DicomFolder) -> pl.DataFrame | None:
    if not binding.outcomes:
        return None
    path, key = Path(binding.outcomes), binding.columns.key
    table = read_csv(path, binding.encoding)
    require(table, [key], path)
    if repeated := len(table) - table[key].n_unique():
        raise DataError(
            f"column `{key}`: {repeated} of {len(table)} rows repeat a value",
            where=str(path),
            fix=f"list every {key} once",
        )
    return table


def _joined(frame: pl.DataFrame, outcomes: pl.DataFrame, binding: DicomFolder) -> pl.DataFrame:
    key = binding.columns.key
    if absent := len(outcomes) - int(outcomes[key].is_in(frame[key].implode()).sum()):
        raise DataError(
            f"column `{key}`: {absent} of {len(outcomes)} rows are of no file in the folder",
            where=str(binding.outcomes),
            fix="bring these files, or leave the rows out",
        )
    kept = [key, *(name for name in outcomes.columns if name in _named(binding) and name != key)]
    return frame.join(outcomes.select(kept), on=key, how="inner", maintain_order="left")
