"""Measurements at irregular times, brought onto the study's grid (features as in Che et al. 2018, section 2).

For every variable and step: the value (mean of the step's measurements, else the last one before, else the middle of
the public range), whether it was measured in this step, and the hours since its last measurement as a fraction of the
horizon (1 before the first). Values are clipped to the public range first, so that an outlier weighs as much as the
edge of what is plausible. A step is closed on the left; the horizon itself belongs to the last step. Measurements
before admission or beyond the horizon are left out, as are variables that the study does not name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmodels.data.binding import SeriesLong, SeriesPhysionet2012
from fedmodels.data.csvfile import clock_minutes, numbers, read_csv, require
from fedmodels.data.dataset import Dataset
from fedmodels.data.physionet2012 import LABEL, PATIENT, check_variables, read_outcomes, read_stays
from fedmodels.data.records import Rules, rules_of, select
from fedmodels.errors import DataError
from fedmodels.study import SeriesInput, Variable

_UNKNOWN = 0.5
_MINUTES = {"minutes": 1.0, "hours": 60.0}


@dataclass(frozen=True, repr=False)
class Points:
    """Single measurements that fall on the grid: indices of patient, step and variable, and values within [0, 1]."""

    patient: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    variable: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]


def read_series(binding: SeriesLong | SeriesPhysionet2012, input_: SeriesInput, labels: tuple[str, ...]) -> Dataset:
    """x float32 [n, steps, features] within [0, 1]; lengths run to the last step with any measurement, at least 1."""
    path, listing = Path(binding.path), Path(binding.outcomes or binding.path)
    if isinstance(binding, SeriesLong):
        measured, everyone = _read_long(binding, path)
        patient, label = binding.columns.patient, binding.columns.label
    else:
        check_variables([variable.name for variable in (*input_.variables, *input_.statics)], listing)
        measured, everyone = read_stays(path)
        patient, label = PATIENT, LABEL
    if binding.labelled:
        outcomes = _read_outcomes(binding, patient, label, listing)
    else:
        outcomes = pl.DataFrame({patient: everyone})
    rules = rules_of(binding, patient, label if binding.labelled else None, labels)
    records = select(_with_statics(outcomes, measured, rules), rules, listing)
    order = pl.DataFrame({"patient": records.patients.tolist()}).with_row_index("index")
    chosen = measured.join(order, on="patient", how="inner")
    _check_found(chosen, len(order), input_, path)
    points = _points(chosen, input_)
    values, lengths = grid(points, len(order), input_)
    statics = _statics(chosen, len(order), input_.statics)
    repeated = np.broadcast_to(statics[:, None, :], (len(order), input_.steps, statics.shape[1]))
    return Dataset(records.patients, np.concatenate([values, repeated], axis=2), records.y, records.split, lengths)


def grid(points: Points, patients: int, input_: SeriesInput) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """[patients, steps, 3 * variables] of value, mask and time since, and [patients] lengths; see the module."""
    steps, variables = input_.steps, len(input_.variables)
    cells = patients * steps * variables
    flat = (points.patient * steps + points.step) * variables + points.variable
    counts = np.bincount(flat, minlength=cells).reshape(patients, steps, variables)
    sums = np.bincount(flat, weights=points.value, minlength=cells).reshape(patients, steps, variables)
    measured = counts > 0
    means = sums / np.maximum(counts, 1)
    now = np.arange(steps)[None, :, None]
    last = np.maximum.accumulate(np.where(measured, now, -1), axis=1)
    carried = np.take_along_axis(means, np.maximum(last, 0), axis=1)
    x = np.empty((patients, steps, variables, 3), dtype=np.float32)
    x[..., 0] = np.where(last >= 0, carried, _UNKNOWN)
    x[..., 1] = measured
    x[..., 2] = np.where(last >= 0, (now - last) / steps, 1.0)
    lengths = np.where(measured.any(axis=2), np.arange(1, steps + 1), 1).max(axis=1)
    return x.reshape(patients, steps, variables * 3), lengths.astype(np.int64)


def _read_long(binding: SeriesLong, path: Path) -> tuple[pl.DataFrame, pl.Series]:
    """Columns patient, variable, minutes, value; and all patients, also those of whom every value is missing."""
    columns = binding.columns
    frame = read_csv(path, binding.encoding)
    require(frame, [columns.patient, columns.time, columns.variable, columns.value], path)
    everyone = frame[columns.patient].unique(maintain_order=True)
    frame = frame.filter(~pl.col(columns.value).is_in(list(binding.missing)))
    if binding.time_unit == "hh:mm":
        minutes = clock_minutes(frame[columns.time], path)
    else:
        minutes = numbers(frame[columns.time], (), path) * _MINUTES[binding.time_unit]
    measured = frame.select(
        pl.col(columns.patient).alias("patient"),
        pl.col(columns.variable).alias("variable"),
        minutes.alias("minutes"),
        numbers(frame[columns.value], (), path).alias("value"),
    )
    return measured, everyone


def _read_outcomes(binding: SeriesLong | SeriesPhysionet2012, patient: str, label: str, path: Path) -> pl.DataFrame:
    outcomes = read_csv(path, binding.encoding) if isinstance(binding, SeriesLong) else read_outcomes(path)
    require(outcomes, [patient, label], path)
    repeated = len(outcomes) - outcomes[patient].n_unique()
    if not repeated:
        return outcomes
    twice = outcomes.group_by(patient).agg(pl.col(label).n_unique().alias("labels"))
    two_labels = int((twice["labels"] > 1).sum())
    detail = f", {two_labels} patients with different labels" if two_labels else ""
    raise DataError(
        f"column `{patient}`: {repeated} of {len(outcomes)} rows repeat a patient{detail}",
        where=str(path),
        fix="the outcomes need exactly one row per patient",
    )


def _with_statics(outcomes: pl.DataFrame, measured: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Outcomes with a column for each variable that `where` names and the outcomes lack, from its first value."""
    for name in rules.where:
        if name in outcomes.columns:
            continue
        first = measured.filter(pl.col("variable") == name).sort("minutes", maintain_order=True)
        values = first.group_by("patient", maintain_order=True).agg(pl.col("value").first().cast(pl.String).alias(name))
        if len(values):
            outcomes = outcomes.join(
                values.rename({"patient": rules.patient}), on=rules.patient, how="left", maintain_order="left"
            )
    return outcomes


def _check_found(chosen: pl.DataFrame, patients: int, input_: SeriesInput, path: Path) -> None:
    if absent := patients - chosen["index"].n_unique():
        raise DataError(
            f"{absent} of {patients} patients have no measurement",
            where=str(path),
            fix="leave them out, and check that outcomes (if there are any) and measurements name patients alike",
        )
    if not chosen["variable"].is_in([variable.name for variable in input_.variables]).any():
        raise DataError(
            f"none of the study's {len(input_.variables)} variables occurs among the measurements",
            where=str(path),
            fix="name the variables as the study does: " + ", ".join(v.name for v in input_.variables[:5]) + ", ...",
        )


def _points(chosen: pl.DataFrame, input_: SeriesInput) -> Points:
    index, values = _scaled(chosen, input_.variables)
    minutes = chosen["minutes"].to_numpy()
    horizon = input_.steps * input_.step_minutes
    kept = (index >= 0) & (minutes >= 0) & (minutes <= horizon)
    step = np.minimum((minutes[kept] / input_.step_minutes).astype(np.int64), input_.steps - 1)
    return Points(chosen["index"].to_numpy().astype(np.int64)[kept], step, index[kept], values[kept])


def _statics(chosen: pl.DataFrame, patients: int, statics: tuple[Variable, ...]) -> npt.NDArray[np.float32]:
    """[patients, 2 * statics] of value and missing indicator; the earliest value counts."""
    x = np.tile(np.array([_UNKNOWN, 1.0], dtype=np.float32), (patients, len(statics), 1))
    ordered = chosen.filter(pl.col("variable").is_in([static.name for static in statics]))
    ordered = ordered.sort("minutes", descending=True, maintain_order=True)
    index, values = _scaled(ordered, statics)
    # Later assignments win, hence the earliest value comes last.
    x[ordered["index"].to_numpy(), index, 0] = values
    x[ordered["index"].to_numpy(), index, 1] = 0.0
    return x.reshape(patients, 2 * len(statics))


def _scaled(
    frame: pl.DataFrame, variables: tuple[Variable, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Index of each row's variable (-1 where not among `variables`) and its value scaled by the public range."""
    names = {variable.name: number for number, variable in enumerate(variables)}
    index = frame["variable"].replace_strict(names, default=-1, return_dtype=pl.Int64).to_numpy()
    low = np.array([*(variable.low for variable in variables), 0.0])
    high = np.array([*(variable.high for variable in variables), 1.0])
    clipped = frame["value"].to_numpy().clip(low[index], high[index])
    return index, (clipped - low[index]) / (high[index] - low[index])
