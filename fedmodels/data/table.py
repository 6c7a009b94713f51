"""Tables: numbers scaled by their public range, categories as one indicator per public value."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmodels.data.binding import TableCsv
from fedmodels.data.csvfile import canonical, canonical_code, numbers, read_csv, require
from fedmodels.data.dataset import Dataset
from fedmodels.data.records import rules_of, select
from fedmodels.study import Column, TableInput

_UNKNOWN = 0.5  # the middle of the public range, so that a missing value says nothing by itself


def read_table(binding: TableCsv, input_: TableInput, labels: tuple[str, ...]) -> Dataset:
    """x float32 [n, features] within [0, 1], features as `features.feature_names` lists them."""
    path = Path(binding.path)
    frame = read_csv(path, binding.encoding, binding.header)
    require(frame, [column.name for column in input_.columns], path)
    records = select(frame, rules_of(binding, binding.columns.patient, binding.columns.label, labels), path)
    chosen = frame[records.rows.tolist()]
    x = np.concatenate([_features(chosen, column, binding, path) for column in input_.columns], axis=1)
    return Dataset(records.patients, x, records.y, records.split)


def _features(frame: pl.DataFrame, column: Column, binding: TableCsv, path: Path) -> npt.NDArray[np.float32]:
    if column.kind == "category":
        cells = np.array(frame.select(canonical(column.name)).to_series().to_list(), dtype=np.str_)
        codes = np.array([canonical_code(value) for value in column.values], dtype=np.str_)
        known = cells[:, None] == codes[None, :]
        return np.column_stack([known, ~known.any(axis=1)]).astype(np.float32)
    values = numbers(frame[column.name], binding.missing, path)
    scaled = (values.fill_null(column.low).to_numpy().clip(column.low, column.high) - column.low) / (
        column.high - column.low
    )
    absent = values.is_null().to_numpy()
    return np.column_stack([np.where(absent, _UNKNOWN, scaled), absent]).astype(np.float32)
