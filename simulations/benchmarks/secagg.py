"""`fedmodels bench secagg`: secure aggregation side by side with what else there is, on the same vectors, in one run.

For every case all contenders take turns, round by round; a figure is the median over the repetitions. Every sum of
every repetition is compared with the plain integer sum. Another contender is one file and one entry in `CONTENDERS`.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

import numpy as np

from fedmodels.errors import RunError
from simulations.benchmarks.aggregation import ckks, flower, plain, recover, retry
from simulations.benchmarks.aggregation.contest import (
    AGGREGATOR,
    CONTRIBUTOR,
    Case,
    Clock,
    Contender,
    Inputs,
    Phase,
    Round,
)
from simulations.benchmarks.aggregation.floor import Floor
from simulations.benchmarks.aggregation.floor import measure as measure_floor
from simulations.benchmarks.aggregation.floor import sample as sample_floor
from simulations.benchmarks.aggregation.memory import peak_growth
from simulations.benchmarks.aggregation.scale import Large, Scale
from simulations.benchmarks.aggregation.scale import measure as measure_large
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import Target

CONTENDERS = (retry.CONTENDER, recover.CONTENDER, flower.CONTENDER, ckks.CONTENDER, plain.CONTENDER)
REFERENCE = flower.CONTENDER
OURS = (retry.CONTENDER, recover.CONTENDER)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured. floor: masks and words; memory: the case of the aggregator's peak growth; large: one round."""

    cases: tuple[Case, ...]
    repetitions: int
    floor: tuple[int, int]
    memory: Case
    large: Large


FULL = Plan(
    tuple(Case(w, n, d) for w in (1_000_000, 10_000_000) for n in (10, 50) for d in (False, True)),
    7,
    (50, 10_000_000),
    Case(10_000_000, 50, dropout=False),
    Large(1_000_000, 200, dropped=20),
)
QUICK = Plan(
    (Case(1_000_000, 10, dropout=False), Case(1_000_000, 10, dropout=True)),
    3,
    (50, 1_000_000),
    Case(1_000_000, 10, dropout=False),
    Large(100_000, 30, dropped=3),
)


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds. contributor and aggregator are the sums of their phases."""

    phases: dict[Phase, float]
    contributor: float
    aggregator: float

    def scaled(self, contributor: float, aggregator: float) -> "Timing":
        factors = dict.fromkeys(CONTRIBUTOR, contributor) | dict.fromkeys(AGGREGATOR, aggregator)
        return Timing(
            {phase: taken * factors[phase] for phase, taken in self.phases.items()},
            self.contributor * contributor,
            self.aggregator * aggregator,
        )


@dataclass(frozen=True)
class Row:
    """One contender in one case. note: why there is no timing, or what it was extrapolated from.

    times_reference: how many times as long the reference takes, for the `mask` phase, for `stage` (encode and mask),
    for all that a contributor does, and for the aggregator. share_of_floor: the floor's time for as many masks,
    by the `mask` phase's.
    """

    contender: str
    case: Case
    timing: Timing | None
    bytes_up_per_parameter: float = 0.0
    exchanges: int = 0
    share_of_floor: float | None = None
    times_reference: dict[str, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """The aggregator's peak resident growth. A model size is 4 bytes per parameter."""

    case: Case
    bytes: int
    model_sizes: float


@dataclass(frozen=True)
class Report:
    machine: Machine
    load_after: float
    repetitions: int
    floor: Floor
    rows: tuple[Row, ...]
    memory: Memory
    scale: Scale
    targets: tuple[Target, ...]


def run(plan: Plan, progress: Progress) -> Report:
    """Measure all that `plan` says. progress: called with a few words before each step."""
    machine = this_machine()
    progress(f"floor of masking, {plan.floor[0]} masks over {plan.floor[1]:,} parameters")
    floor = measure_floor(*plan.floor, max(plan.repetitions, 3))
    rows: list[Row] = []
    for case in plan.cases:
        rows += _compare(*_measure_case(case, plan.repetitions, rows, progress))
    progress("memory of the aggregator")
    growth = peak_growth(retry.aggregate, retry.contribute, plan.memory)
    memory = Memory(plan.memory, growth, growth / (4 * plan.memory.words))
    scale = measure_large(plan.large, progress)
    load_after = round(os.getloadavg()[0], 2)
    return Report(
        machine,
        load_after,
        plan.repetitions,
        floor,
        tuple(rows),
        memory,
        scale,
        tuple(_targets(plan, rows, floor, memory)),
    )


def _measure_case(case: Case, repetitions: int, earlier: list[Row], progress: Progress) -> tuple[list[Row], float]:
    """The rows of a case, and the floor in seconds per byte of mask: it is taken in turns with the contenders."""
    inputs = Inputs(case)
    present = [contender for contender in CONTENDERS if not contender.missing() and not _is_too_large(contender, case)]
    rounds = {}
    for contender in present:
        progress(f"{describe(case)}: {contender.name}, keys")
        rounds[contender.name] = contender.prepare(case, inputs)
    clocks: dict[str, list[Clock]] = {contender.name: [] for contender in present}
    outcomes: dict[str, Round] = {}
    floors = []
    for repetition in range(repetitions):
        floors.append(sample_floor())
        for contender in present:
            progress(f"{describe(case)}: {contender.name}, {repetition + 1} of {repetitions}")
            clock = Clock()
            outcome = rounds[contender.name](clock)
            if not np.array_equal(outcome.total, inputs.total):
                raise RunError("the sum is wrong", where=contender.name, fix="report it: this is a bug")
            outcomes[contender.name] = outcome
            clocks[contender.name].append(clock)
    rows = [
        Row(
            contender.name,
            case,
            _timing(clocks[contender.name]),
            outcomes[contender.name].bytes_up / case.words,
            outcomes[contender.name].exchanges,
        )
        if contender in present
        else _unmeasured(contender, case, earlier)
        for contender in CONTENDERS
    ]
    return rows, median(floors)


def _timing(clocks: list[Clock]) -> Timing:
    def milliseconds(phases: tuple[Phase, ...]) -> float:
        return 1e3 * median(math.fsum(clock.seconds[phase] for phase in phases) for clock in clocks)

    return Timing(
        {phase: milliseconds((phase,)) for phase in (*CONTRIBUTOR, *AGGREGATOR)},
        milliseconds(CONTRIBUTOR),
        milliseconds(AGGREGATOR),
    )


def _is_too_large(contender: Contender, case: Case) -> bool:
    largest = contender.largest
    return largest is not None and (case.words > largest.words or case.contributors > largest.contributors)


def _unmeasured(contender: Contender, case: Case, earlier: list[Row]) -> Row:
    """A row without a measurement of its own: the reason, or what the contender's largest case says about it."""
    if reason := contender.missing():
        return Row(contender.name, case, None, note=reason)
    source = next(
        (
            row
            for row in earlier
            if row.contender == contender.name
            and contender.largest == replace(row.case, dropout=False)
            and row.case.dropout == case.dropout
        ),
        None,
    )
    if source is None or source.timing is None:
        return Row(contender.name, case, None, note="too slow")
    words = case.words / source.case.words
    uploads = len(case.uploading) / len(source.case.uploading)
    note = f"extrapolated from {source.case.words / 1e6:g}M, n = {source.case.contributors}"
    return replace(source, case=case, timing=source.timing.scaled(words, words * uploads), note=note)


def _compare(rows: list[Row], floor: float) -> Iterator[Row]:
    """The rows of one case with their share of the floor and their ratios to the reference."""
    reference = next(row.timing for row in rows if row.contender == REFERENCE.name)
    for row, contender in zip(rows, CONTENDERS, strict=True):
        if row.timing is None or reference is None:
            yield row
            continue
        masks, taken = contender.masks(row.case), compared(row.timing)
        shortest = 1e3 * floor * masks * 4 * row.case.words
        yield replace(
            row,
            share_of_floor=shortest / taken["mask"] if masks else None,
            times_reference={name: slow / taken[name] for name, slow in compared(reference).items() if taken[name]},
        )


def compared(timing: Timing) -> dict[str, float]:
    """What contenders are compared by; stage is what Flower calls collecting a masked vector."""
    stage = timing.phases["encode"] + timing.phases["mask"]
    return {
        "mask": timing.phases["mask"],
        "stage": stage,
        "contributor": timing.contributor,
        "aggregator": timing.aggregator,
    }


def _targets(plan: Plan, rows: list[Row], floor: Floor, memory: Memory) -> Iterator[Target]:
    goals = (
        (False, "mask", "contributor, masking alone", 15),
        (False, "stage", "contributor, encoding and masking", 15),
        (False, "aggregator", "aggregator", 30),
        (True, "aggregator", "aggregator", 30),
    )
    for contender, (dropout, part, name, goal) in product(OURS, goals):
        case = Case(1_000_000, 10, dropout)
        ours = next((row.times_reference for row in rows if row.contender == contender.name and row.case == case), None)
        ratio = (ours or {}).get(part)
        yield Target(
            f"{contender.name}: {name}, {describe(case)}, times as fast as {REFERENCE.name}",
            f">= {goal}",
            ratio,
            None if ratio is None else ratio >= goal,
        )
    full = plan.floor == FULL.floor
    yield Target("share of the floor, 50 masks over 10M", ">= 0.7", floor.share, floor.share >= 0.7 if full else None)
    full = plan.memory == FULL.memory
    yield Target(
        "aggregator's peak growth at n = 50, 10M, in model sizes", "< 4", memory.model_sizes,
        memory.model_sizes < 4 if full else None,
    )  # fmt: skip


def describe(case: Case) -> str:
    return f"{case.words / 1e6:g}M, n = {case.contributors}" + (", one dropout" if case.dropout else "")
