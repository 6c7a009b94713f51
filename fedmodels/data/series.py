"""Measurements at irregular times, brought onto the study's grid (features as in Che et al. 2018, section 2).

For every variable and step: the value (mean of the step's measurements, else the last one before, else the middle of
the public range), whether it was measured in this step, and the hours since its last measurement as a fraction of the
horizon (1 before the first). Values are clipped to the public range first, so that an outlier weighs as much as the
edge of what is plausible. A step is closed on the left; the horizon itself belongs to the last step. Measurements
before admission or beyond the horizon are left out and counted in the notes; variables that the study does not name are
left out. Several measurements in one step, also at the same minute, count with their mean; of a static, the earliest
counts, and of several at that minute the last in the file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmodels.data.csvfile import require
from fedmodels.data.dataset import Dataset
from fedmodels.data.measurements import SeriesBinding, columns_of, in_units, one_row_each, read_measurements
from fedmodels.data.records import Rules, rules_of, select
from fedmodels.data.units import implausible
from fedmodels.errors import DataError
from fedmodels.study_input import SeriesInput, Variable

_UNKNOWN = 0.5


@dataclass(frozen=True, repr=False)
class Points:
    """Single measurements that fall on the grid: indices of patient, step and variable, and values within [0, 1]."""

    patient: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    variable: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]


def read_series(binding: SeriesBinding, input_: SeriesInput, labels: tuple[str, ...]) -> Dataset:
    """x float32 [n, steps, features] within [0, 1]; lengths run to the last step with any measurement, at least 1."""
    path, listing = Path(binding.path), Path(binding.outcomes or binding.path)
    patient, label = columns_of(binding)
    rules = rules_of(binding, patient, label if binding.labelled else None, labels)
    measured, everyone = read_measurements(binding, input_, rules.reader)
    if binding.labelled:
        outcomes = rules.reader.rows(listing)
        require(outcomes, [patient, label], listing)
        one_row_each(outcomes, patient, label, listing)
    else:
        outcomes = pl.DataFrame({patient: everyone})
    records = select(_with_statics(outcomes, measured, rules), rules, listing)
    order = pl.DataFrame({"patient": records.patients.tolist()}).with_row_index("index")
    chosen = measured.join(order, on="patient", how="inner")
    _check_found(chosen, len(order), input_, path)
    chosen = in_units(chosen, input_, binding.units, path)
    points, notes = _points(chosen, input_)
    values, lengths = grid(points, len(order), input_)
    statics = _statics(chosen, len(order), input_.statics)
    repeated = np.broadcast_to(statics[:, None, :], (len(order), input_.steps, statics.shape[1]))
    x = np.concatenate([values, repeated], axis=2)
    said = tuple(dict.fromkeys([*rules.reader.notes, *notes]))
    return Dataset(records.patients, x, records.y, records.split, lengths, said)


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


def _points(chosen: pl.DataFrame, input_: SeriesInput) -> tuple[Points, list[str]]:
    """The measurements that fall on the grid, and what is to be said about the others."""
    index = _index(chosen, input_.variables)
    values, minutes, patient = (chosen[name].to_numpy() for name in ("value", "minutes", "index"))
    horizon, known = input_.steps * input_.step_minutes, index >= 0
    before, after = int((known & (minutes < 0)).sum()), int((known & (minutes > horizon)).sum())
    kept = known & (minutes >= 0) & (minutes <= horizon)
    notes = implausible(input_.variables, index, values)
    if before or after:
        notes.append(
            f"of {known.sum()} measurements, {before} before admission and {after} after the {horizon / 60:g} hours of "
            "the study's grid were left out"
        )
    patients = len(np.unique(patient))
    if without := patients - len(np.unique(patient[kept])):
        notes.append(f"{without} of {patients} patients have no measurement of the study's variables on its grid")
    step = np.minimum((minutes[kept] / input_.step_minutes).astype(np.int64), input_.steps - 1)
    scaled = _scaled(values[kept], index[kept], input_.variables)
    return Points(patient.astype(np.int64)[kept], step, index[kept], scaled), notes


def _statics(chosen: pl.DataFrame, patients: int, statics: tuple[Variable, ...]) -> npt.NDArray[np.float32]:
    """[patients, 2 * statics] of value and missing indicator; the earliest value counts."""
    x = np.tile(np.array([_UNKNOWN, 1.0], dtype=np.float32), (patients, len(statics), 1))
    ordered = chosen.filter(pl.col("variable").is_in([static.name for static in statics]))
    ordered = ordered.sort("minutes", descending=True, maintain_order=True)
    index = _index(ordered, statics)
    values = _scaled(ordered["value"].to_numpy(), index, statics)
    # Later assignments win, hence the earliest value comes last.
    x[ordered["index"].to_numpy(), index, 0] = values
    x[ordered["index"].to_numpy(), index, 1] = 0.0
    return x.reshape(patients, 2 * len(statics))


def _index(frame: pl.DataFrame, variables: tuple[Variable, ...]) -> npt.NDArray[np.int64]:
    """Index of each row's variable, -1 where it is not among `variables`."""
    names = {variable.name: number for number, variable in enumerate(variables)}
    return frame["variable"].replace_strict(names, default=-1, return_dtype=pl.Int64).to_numpy()


def _scaled(
    values: npt.NDArray[np.float64], index: npt.NDArray[np.int64], variables: tuple[Variable, ...]
) -> npt.NDArray[np.float64]:
    """Values within [0, 1]: clipped to the public range of their variables and scaled by it."""
    low = np.array([variable.low for variable in variables])
    high = np.array([variable.high for variable in variables])
    if not len(index):
        return values
    scaled: npt.NDArray[np.float64] = (values.clip(low[index], high[index]) - low[index]) / (high - low)[index]
    return scaled
