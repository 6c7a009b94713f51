"""Columns, variables and statics against the study: missing, constant, of unknown values, out of range, squeezed."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.finding import Finding, listed, share
from fedmodels.data.checks.marginals import Marginal, values_of
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Summary
from fedmodels.data.checks.units import looks_like
from fedmodels.study_input import Column, SeriesInput, TableInput, Variable

_CLIPPED = 0.25  # a long tail is what clipping is for; beyond a quarter it reaches into the middle half of the values
_SQUEEZED = 0.05
_NEARLY = 0.005
_LEAST_VALUES = 20  # the 5 % and 95 % quantiles of fewer are the extremes
_SENTINELS = (0.0, -1.0, -9.0, -99.0, -999.0, -9999.0, 9.0, 99.0, 999.0, 9999.0)


def missingness(found: Sequence[Marginal]) -> Iterator[Finding]:
    """Which inputs of the study this site has, and for how many patients."""
    if not found:
        return
    numbers = {f"patients_with_{marginal.name}": round(marginal.patients, 4) for marginal in found}
    never = [marginal.name for marginal in found if not marginal.patients]
    rare = [f"{marginal.name} {marginal.patients:.0%}" for marginal in found if 0 < marginal.patients < 0.5]
    said = "every input is there for every patient"
    if any(marginal.patients < 1 for marginal in found):
        least = min(found, key=lambda marginal: marginal.patients)
        said = f"least often there: {least.name}, for {least.patients:.1%} of patients"
    if rare:
        said += f"; for fewer than half: {listed(rare)}"
    if never:
        yield Finding(
            "missing",
            "warn",
            f"{len(never)} of the study's {len(found)} inputs never occur here: {listed(never)}",
            "if this hospital does record them, name them as the study does; if not, tell the consortium",
            numbers,
        )
    else:
        yield Finding("missing", "ok", said, numbers=numbers)


def constants(subject: Subject, found: Sequence[Marginal]) -> Iterator[Finding]:
    """Inputs that are the same for everybody, or for all but a few."""
    if not found:
        return
    varying = [marginal for marginal in found if marginal.measured and marginal.name not in subject.source.chosen]
    # Where only some patients have a value, that they have it still tells them apart.
    constant = [m.name for m in varying if m.distinct == 1 and m.patients == 1]
    few = [m for m in varying if m.distinct > 1 and m.other < _NEARLY * m.measured]
    nearly = [f"{m.name} ({m.other} of {m.measured:,} differ)" for m in few]
    if constant or nearly:
        told = [f"the same for everybody: {listed(constant)}"] if constant else []
        told += [f"the same for more than 99.5 %: {listed(nearly)}"] if nearly else []
        do = "check the export: a default may have taken the place of the value, or of `not known`"
        yield Finding("constant", "warn", "; ".join(told), do, {"constant": len(constant), "nearly": len(nearly)})
    else:
        chosen = any(marginal.name in subject.source.chosen for marginal in found)
        said = "every input varies" + (", but for what the records are chosen by" if chosen else "")
        yield Finding("constant", "ok", said)


def categories(subject: Subject, found: Sequence[Marginal]) -> Iterator[Finding]:
    """Cells of categories that are none of the study's values."""
    if not any(marginal.quantiles is None and marginal.bins and marginal.original for marginal in found):
        return
    wrong = [marginal for marginal in found if marginal.unmatched]
    if not wrong:
        yield Finding("categories", "ok", "every category is one of the study's values, or said to be missing")
        return
    said = listed([f"{marginal.name} {share(marginal.unmatched, 1)}" for marginal in wrong])
    lost = any(not marginal.measured for marginal in wrong)
    rows = [np.flatnonzero(subject.source.unmatched[marginal.name]) for marginal in wrong]
    yield Finding(
        "categories",
        "fail" if lost else "warn",
        f"cells that are none of the study's values: {said}",
        "write them as the study does, or list what means `not known` under `missing`; they count as missing now",
        {f"unmatched_{marginal.name}": round(marginal.unmatched, 4) for marginal in wrong},
        rows,
    )


def ranges(subject: Subject, summary: Summary, found: Sequence[Marginal]) -> Iterator[Finding]:
    """Values outside the public ranges, with the unit that they may be in, and numbers that stand for `not known`."""
    numeric = [marginal for marginal in found if marginal.quantiles is not None]
    if not numeric:
        return
    numbers = {f"outside_{m.name}": round(m.below + m.above, 4) for m in numeric}
    outside = [marginal for marginal in numeric if marginal.below + marginal.above > _CLIPPED]
    by_name = {of.name: of for of in _inputs(subject)}
    hints = []
    for marginal in numeric:
        of = by_name[marginal.name]
        hint = looks_like(of.name, values_of(subject, summary, of).values, of.low, of.high)
        hints += [f"{of.name} {hint}"] if hint else []
        outside += [marginal] if hint and marginal not in outside else []
    wrong = [f"{m.name} {share(m.below, 1)} below, {share(m.above, 1)} above" for m in outside]
    gone = [marginal.name for marginal in outside if marginal.below + marginal.above > 0.5]
    if wrong:
        said = f"clipped to the study's public range: {listed(wrong)}"
        do = "check units and decimal points; if they are right, the range is the study's to change"
        if hints:
            do = f"{listed(hints)}: convert the values, or state their unit"
        yield Finding("ranges", "fail" if gone else "warn", said, do, numbers)
    else:
        most = max(numeric, key=lambda marginal: marginal.below + marginal.above)
        said = "no value is outside its public range"
        if most.below + most.above:
            part = share(most.below + most.above, 1)
            said = f"at most {part} of the values of an input are outside its public range ({most.name})"
        yield Finding("ranges", "ok", said, numbers=numbers)
    yield from _sentinels(subject, summary, [by_name[marginal.name] for marginal in numeric])


def drift(found: Sequence[Marginal]) -> Iterator[Finding]:
    """Inputs of which nine tenths of the values fill less than a twentieth of the public range."""
    numeric = [m for m in found if m.quantiles is not None and m.measured >= _LEAST_VALUES and m.distinct > 1]
    if not numeric:
        return
    squeezed = []
    for marginal in numeric:
        five, half, most = marginal.quantiles or (0.0, 0.0, 0.0)
        if max(0.0, min(most, 1.0)) - min(1.0, max(five, 0.0)) < _SQUEEZED:
            where = (
                "at its lower edge" if most < _SQUEEZED else "at its upper edge" if five > 1 - _SQUEEZED else "inside"
            )
            squeezed.append(f"{marginal.name} ({where}, median at {half:.0%})")
    numbers = {f"median_{m.name}": round((m.quantiles or (0.0, 0.0, 0.0))[1], 4) for m in numeric}
    if squeezed:
        said = f"nine tenths of the values fill less than a twentieth of the public range: {listed(squeezed)}"
        do = "check the unit; if it is right, the model can hardly tell these values apart: tell the consortium"
        yield Finding("drift", "warn", said, do, numbers)
    else:
        yield Finding("drift", "ok", "the values of every input spread over its public range", numbers=numbers)


def sentinel(values: npt.NDArray[np.float64]) -> float | None:
    """A number such as 0, -1 or 999 that stands apart from all other values, or None.

    It is the smallest or largest value, occurs at least three times and in one of a hundred cells, and either the gap
    to the next value is wider than the middle half of the others, or it is the only negative number.
    """
    others_of = ((values.min(), values[values > values.min()]), (values.max(), values[values < values.max()]))
    for edge, others in others_of:
        count = len(values) - len(others)
        if edge not in _SENTINELS or count < max(3, 0.01 * len(values)) or len(np.unique(others)) < 5:
            continue
        low, high = np.quantile(others, [0.25, 0.75])
        if np.abs(others - edge).min() > high - low or edge < 0 <= others.min():
            return float(edge)
    return None


def _sentinels(subject: Subject, summary: Summary, inputs: Sequence[Variable | Column]) -> Iterator[Finding]:
    told, rows = [], []
    for of in inputs:
        measured = values_of(subject, summary, of)
        if of.name not in subject.source.values or (mark := sentinel(measured.values)) is None:
            continue
        at = measured.values == mark
        told.append(f"{of.name} ({mark:g} in {share(int(at.sum()), len(at))})")
        rows.append(np.unique(measured.record[at]))
    if told:
        yield Finding(
            "codes for not known",
            "warn",
            f"a number far from all others may mean `not known`: {listed(told)}",
            "list it under `missing` in the data binding, or leave such cells empty",
            {"inputs": len(told)},
            rows,
        )


def _inputs(subject: Subject) -> Sequence[Variable | Column]:
    match subject.study.input:
        case SeriesInput() as input_:
            return (*input_.variables, *input_.statics)
        case TableInput() as input_:
            return input_.columns
        case _:
            return ()
