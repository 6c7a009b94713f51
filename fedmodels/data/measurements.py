"""Measurements of any layout as one table of patient, variable, minutes since admission and value."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from fedmodels.data.binding_kinds import SeriesGrid, SeriesLong, SeriesPhysionet2012
from fedmodels.data.csvfile import numbers, require
from fedmodels.data.physionet2012 import LABEL, PATIENT, check_variables, read_stays
from fedmodels.data.rowfile import Reader
from fedmodels.data.times import minutes_between, minutes_since_admission
from fedmodels.data.units import conversions
from fedmodels.errors import DataError
from fedmodels.study_input import SeriesInput

SeriesBinding = SeriesLong | SeriesGrid | SeriesPhysionet2012
Measured = tuple[pl.DataFrame, pl.Series]
_FLOAT = pl.Float64()


def columns_of(binding: SeriesBinding) -> tuple[str, str]:
    """The columns of patients and labels in the outcomes."""
    if isinstance(binding, SeriesPhysionet2012):
        return PATIENT, LABEL
    return binding.columns.patient, binding.columns.label


def read_measurements(binding: SeriesBinding, input_: SeriesInput, reader: Reader) -> Measured:
    """Columns patient, variable, minutes, value; and all patients, also those of whom every value is missing."""
    path = Path(binding.path)
    match binding:
        case SeriesLong():
            return _read_long(binding, path, reader)
        case SeriesGrid():
            return _read_grid(binding, input_, path, reader)
        case _:
            names = [variable.name for variable in (*input_.variables, *input_.statics)]
            check_variables(names, Path(binding.outcomes or binding.path))
            return read_stays(path)


def in_units(measured: pl.DataFrame, input_: SeriesInput, units: Mapping[str, str], path: Path) -> pl.DataFrame:
    """The measurements with their values in the study's units; units: of the data, as of `units.conversions`."""
    found = conversions([*input_.variables, *input_.statics], units, path)
    name = pl.col("variable")
    factor = name.replace_strict({key: factor for key, (factor, _) in found.items()}, default=1.0, return_dtype=_FLOAT)
    offset = name.replace_strict({key: offset for key, (_, offset) in found.items()}, default=0.0, return_dtype=_FLOAT)
    return measured.with_columns(pl.col("value") * factor + offset) if found else measured


def one_row_each(listed: pl.DataFrame, patient: str, label: str | None, path: Path) -> None:
    """Refuse a file that should list every patient once, and does not."""
    repeated = len(listed) - listed[patient].n_unique()
    if not repeated:
        return
    detail = ""
    if label:
        twice = listed.group_by(patient).agg(pl.col(label).n_unique().alias("labels"))
        two_labels = int((twice["labels"] > 1).sum())
        detail = f", {two_labels} patients with different labels" if two_labels else ""
    raise DataError(
        f"column `{patient}`: {repeated} of {len(listed)} rows repeat a patient{detail}",
        where=str(path),
        fix=f"the {'outcomes' if label else 'admissions'} need exactly one row per patient",
    )


def _read_long(binding: SeriesLong, path: Path, reader: Reader) -> Measured:
    columns = binding.columns
    frame = reader.rows(path)
    require(frame, [columns.patient, columns.time, columns.variable, columns.value], path)
    everyone = frame[columns.patient].unique(maintain_order=True)
    frame = frame.filter(~pl.col(columns.value).is_in(list(binding.missing)))
    if binding.time_unit == "datetime":
        frame, minutes = _since_admission(frame, binding, path, reader)
    else:
        minutes = minutes_since_admission(frame[columns.time], binding.time_unit, path)
    measured = frame.select(
        pl.col(columns.patient).alias("patient"),
        pl.col(columns.variable).alias("variable"),
        minutes.alias("minutes"),
        numbers(frame[columns.value], (), path).alias("value"),
    )
    return measured, everyone


def _since_admission(
    frame: pl.DataFrame, binding: SeriesLong, path: Path, reader: Reader
) -> tuple[pl.DataFrame, pl.Series]:
    """The measurements of patients whose date of admission is known, and the minutes since then."""
    columns, listing = binding.columns, Path(binding.admissions or binding.outcomes or "")
    listed = reader.rows(listing)
    require(listed, [columns.patient, columns.admission], listing)
    one_row_each(listed, columns.patient, None, listing)
    begun = listed.select(pl.col(columns.patient), pl.col(columns.admission).alias("\0begun"))
    known = frame.join(begun, on=columns.patient, how="inner", maintain_order="left")
    # Outcomes list the patients to use; a file of admissions has to know them all.
    if binding.admissions and (unknown := frame[columns.patient].n_unique() - known[columns.patient].n_unique()):
        raise DataError(
            f"{unknown} patients with measurements are not listed",
            where=str(listing),
            fix="list the admission of every patient, named as in the measurements",
        )
    begun_at = known["\0begun"].rename(columns.admission)
    return known, minutes_between(begun_at, known[columns.time], listing, path)


def _read_grid(binding: SeriesGrid, input_: SeriesInput, path: Path, reader: Reader) -> Measured:
    columns = binding.columns
    names = [variable.name for variable in (*input_.variables, *input_.statics)]
    frame = reader.rows(path)
    require(frame, [columns.patient, columns.step, *names], path)
    steps = numbers(frame[columns.step], (), path)
    if broken := int((steps != steps.round()).sum()):
        raise DataError(
            f"column `{columns.step}`: {broken} of {len(steps)} rows are not whole numbers",
            where=str(path),
            fix="number the steps of the study's grid from 0, or bind times as `series-long`",
        )
    if doubled := len(frame) - frame.select(columns.patient, steps.alias("\0step")).n_unique():
        raise DataError(
            f"{doubled} of {len(frame)} rows repeat a patient's step",
            where=str(path),
            fix="write one row per patient and step, or bind times as `series-long`",
        )
    values = frame.select(numbers(frame[name], binding.missing, path).alias(name) for name in names)
    # The middle of a step: its beginning, divided again, could be rounded into the step before.
    minutes = ((steps + 0.5) * input_.step_minutes).alias("minutes")
    wide = values.with_columns(frame[columns.patient].alias("\0patient"), minutes.alias("\0minutes"))
    long = wide.unpivot(on=names, index=["\0patient", "\0minutes"], variable_name="variable", value_name="value")
    measured = long.drop_nulls("value").select(
        pl.col("\0patient").alias("patient"), "variable", pl.col("\0minutes").alias("minutes"), "value"
    )
    return measured, frame[columns.patient].unique(maintain_order=True)
