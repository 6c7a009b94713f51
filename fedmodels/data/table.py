"""Tables: numbers scaled by their public range, categories as one indicator per public value."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmodels.data.binding_kinds import TableFile
from fedmodels.data.csvfile import canonical, canonical_code, numbers, require
from fedmodels.data.dataset import Dataset
from fedmodels.data.records import rules_of, select
from fedmodels.data.units import conversions, implausible
from fedmodels.study_input import Column, TableInput

_UNKNOWN = 0.5  # the middle of the public range, so that a missing value says nothing by itself


def read_table(binding: TableFile, input_: TableInput, labels: tuple[str, ...]) -> Dataset:
    """x float32 [n, features] within [0, 1], features as `features.feature_names` lists them."""
    path = Path(binding.path)
    rules = rules_of(binding, binding.columns.patient, binding.columns.label, labels)
    frame = rules.reader.rows(path, binding.header)
    require(frame, [column.name for column in input_.columns], path)
    records = select(frame, rules, path)
    chosen = frame[records.rows.tolist()]
    found = conversions(input_.columns, binding.units, path)
    columns, notes = [], rules.reader.notes
    for column in input_.columns:
        if column.kind == "category":
            columns.append(chosen.select(canonical(column.name)).to_series())
            continue
        factor, offset = found.get(column.name, (1.0, 0.0))
        values = numbers(chosen[column.name], binding.missing, path) * factor + offset
        known = values.drop_nulls().to_numpy()
        notes.extend(implausible([column], np.zeros(len(known), dtype=np.int64), known))
        columns.append(values)
    features = [_features(cells, column) for cells, column in zip(columns, input_.columns, strict=True)]
    return Dataset(records.patients, np.concatenate(features, axis=1), records.y, records.split, notes=tuple(notes))


def _features(cells: pl.Series, column: Column) -> npt.NDArray[np.float32]:
    if column.kind == "category":
        codes = np.array([canonical_code(value) for value in column.values], dtype=np.str_)
        known = np.array(cells.to_list(), dtype=np.str_)[:, None] == codes[None, :]
        return np.column_stack([known, ~known.any(axis=1)]).astype(np.float32)
    clipped = cells.fill_null(column.low).to_numpy().clip(column.low, column.high)
    absent = cells.is_null().to_numpy()
    scaled = (clipped - column.low) / (column.high - column.low)
    return np.column_stack([np.where(absent, _UNKNOWN, scaled), absent]).astype(np.float32)
