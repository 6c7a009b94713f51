"""Each column, variable and static by itself: who has it, and where its values lie within the study's public range."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.source import Measured
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Summary
from fedmodels.study_input import Column, SeriesInput, TableInput, Variable

BINS = 24


@dataclass(frozen=True, repr=False)
class Marginal:
    """One column, variable or static at this site.

    patients: share of patients who have it at all; measured: number of values; distinct: of different ones; other:
    number of values that are not the most frequent one.
    Of numbers only: low, high: the public range; quantiles: 5 %, 50 % and 95 % as shares of that range, below 0 or
    above 1 outside it; below, above: shares of values outside; bins: [BINS + 2] counts below, over and above the
    range. Of categories: bins of the study's values; unmatched: share of cells that are none of these.
    original: whether all this is of the values as they are in the files, not of those that the adapter made of them.
    """

    name: str
    patients: float
    measured: int = 0
    distinct: int = 0
    other: int = 0
    low: float = 0.0
    high: float = 0.0
    quantiles: tuple[float, float, float] | None = None
    below: float = 0.0
    above: float = 0.0
    bins: tuple[int, ...] = ()
    unmatched: float = 0.0
    original: bool = True


def marginals(subject: Subject, summary: Summary) -> list[Marginal]:
    """In the order of the study; none for images and texts."""
    match subject.study.input:
        case SeriesInput() as input_:
            return [_number(subject, summary, variable) for variable in (*input_.variables, *input_.statics)]
        case TableInput() as input_:
            return [
                _category(subject, summary, column) if column.kind == "category" else _number(subject, summary, column)
                for column in input_.columns
            ]
        case _:
            return []


def values_of(subject: Subject, summary: Summary, of: Variable | Column) -> Measured:
    """The values of a number in its own unit: those of the files or, for a kind that is not read again, the study's."""
    if of.name in subject.source.values:
        return subject.source.values[of.name]
    names = (of.name, f"{of.name} (mean)")
    scaled = next(p.values for p in summary.predictors if p.kind == "value" and p.of in names)
    there = np.flatnonzero(np.isfinite(scaled)).astype(np.int64)
    return Measured(of.low + scaled[there].astype(np.float64) * (of.high - of.low), there)


def _number(subject: Subject, summary: Summary, of: Variable | Column) -> Marginal:
    values = values_of(subject, summary, of).values
    having = _having(subject, summary, of.name)
    original = of.name in subject.source.values
    if not len(values):
        return Marginal(of.name, having, low=of.low, high=of.high, original=original)
    scaled = (values - of.low) / (of.high - of.low)
    five, half, most = np.quantile(scaled, [0.05, 0.5, 0.95]).tolist()
    counts = np.unique(values, return_counts=True)[1]
    place = 1 + np.clip((scaled * BINS).astype(np.int64), 0, BINS - 1)
    place[scaled < 0], place[scaled > 1] = 0, BINS + 1
    return Marginal(
        of.name,
        having,
        len(values),
        len(counts),
        int(len(values) - counts.max()),
        of.low,
        of.high,
        (five, half, most),
        float((scaled < 0).mean()),
        float((scaled > 1).mean()),
        tuple(np.bincount(place, minlength=BINS + 2).tolist()),
        original=original,
    )


def _category(subject: Subject, summary: Summary, column: Column) -> Marginal:
    having = _having(subject, summary, column.name)
    names = [f"{column.name} = {value}" for value in column.values]
    cells = np.column_stack([p.values for name in names for p in summary.predictors if p.of == name])
    counts = np.nansum(cells, axis=0).astype(np.int64)
    unmatched = subject.source.unmatched.get(column.name)
    return Marginal(
        column.name,
        having,
        int(counts.sum()),
        int((counts > 0).sum()),
        int(counts.sum() - counts.max()),
        bins=tuple(counts.tolist()),
        unmatched=0.0 if unmatched is None else float(unmatched.mean()),
        original=unmatched is not None,
    )


def _having(subject: Subject, summary: Summary, name: str) -> float:
    measured = next(p.values for p in summary.predictors if p.kind == "measured" and p.of == name)
    people = len(subject.one_each)
    ever: npt.NDArray[np.float64] = np.zeros(people)
    np.maximum.at(ever, subject.person, measured)
    return float(ever.mean())
