"""`fedmodels bench dp`: a private training step beside the plain one and beside Opacus, on the same models and batches.

All contenders of a case take turns, step by step; a figure is the median. Both sides keep freed memory (`allocator`)
and, for images on the CPU, put channels last. Steps run on `fedmodels.models.device.device()`; the goals are the CPU's.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from fedmodels import allocator
from fedmodels.models.device import device
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import Target
from simulations.benchmarks.steps import cases as models
from simulations.benchmarks.steps.cases import Case, cases
from simulations.benchmarks.steps.contenders import CONTENDERS, OPACUS, OURS, STOCK, Contender, Step
from simulations.benchmarks.steps.memory import peak

Progress = Callable[[str], None]

_SLOW = 2.0  # seconds: after a step as long, three repetitions are enough
_MEMORY_SHARE = 0.5  # of what is free: a contender that would hold more is left out


@dataclass(frozen=True)
class Goal:
    """times_stock, memory: at most; times_opacus: at least as many times as fast as Opacus's best mode."""

    times_stock: float
    times_opacus: float | None
    memory: float = 1.6


GOALS = {
    models.CNN: Goal(1.2, 2.3),
    models.CNN_LOGICAL: Goal(1.05, None),
    models.CNN_64: Goal(1.35, 1.9),
    models.CNN_28: Goal(1.8, 1.6),
    models.GRU: Goal(1.0, 4.0),
    models.TEXT_GRU: Goal(1.0, 4.0),
    models.LSTM: Goal(2.3, 4.0),
    models.TEXT_LSTM: Goal(2.3, 4.0),
}


@dataclass(frozen=True)
class Row:
    """One contender on one model. milliseconds: median of a step, None with the reason in `note`.

    times_stock, memory_times_stock: its step and its peak memory over those of the plain step.
    """

    case: str
    contender: str
    milliseconds: float | None
    times_stock: float | None = None
    peak_bytes: int | None = None
    memory_times_stock: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """device: "cpu", or the name of the GPU that steps were taken on."""

    machine: Machine
    device: str
    load_after: float
    repetitions: int
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]


def run(progress: Progress, *, quick: bool) -> Report:
    """Measure every case; `quick`: small ones only, a few times. progress: called with words before each step."""
    machine, repetitions = this_machine(), 3 if quick else 7
    allocator.tune()
    rows: list[Row] = []
    for case in cases():
        if case.small or not quick:
            rows += _measure(case, repetitions, progress)
    where = device()
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    return Report(machine, name, round(os.getloadavg()[0], 2), repetitions, tuple(rows), tuple(_targets(rows)))


def _measure(case: Case, repetitions: int, progress: Progress) -> Iterator[Row]:
    steps: dict[str, Step] = {}
    notes: dict[str, str] = {}
    for contender in CONTENDERS:
        if note := _left_out(contender, case):
            notes[contender.name] = note
            continue
        progress(f"{case.name}: {contender.name}, the first steps")
        steps[contender.name] = contender.prepare(case)
        for _ in range(2):
            steps[contender.name]()
    taken = _take_turns(case, steps, repetitions, progress)
    peaks = {}
    for name in steps:
        progress(f"{case.name}: {name}, memory")
        peaks[name] = peak(case.name, name)
    for contender in CONTENDERS:
        name = contender.name
        if name in notes:
            yield Row(case.name, name, None, note=notes[name])
            continue
        yield Row(
            case.name, name, 1e3 * taken[name], taken[name] / taken[STOCK.name], peaks[name],
            peaks[name] / peaks[STOCK.name],
        )  # fmt: skip


def _take_turns(case: Case, steps: dict[str, Step], repetitions: int, progress: Progress) -> dict[str, float]:
    """The median seconds of each step; three times suffice for a contender that takes long."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    wait = _finish_of(device())
    for repetition in range(repetitions):
        for name, step in steps.items():
            if repetition >= 3 and seconds[name][0] > _SLOW and name not in (STOCK.name, OURS.name):
                continue
            progress(f"{case.name}: {name}, {repetition + 1} of {repetitions}")
            wait()
            begin = time.perf_counter()
            step()
            wait()
            seconds[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in seconds.items()}


def _finish_of(where: torch.device) -> Step:
    """A call that returns when the device has done what it was asked for; the CPU has by then."""
    return partial(torch.cuda.synchronize, where) if where.type == "cuda" else lambda: None


def _left_out(contender: Contender, case: Case) -> str:
    if contender in (STOCK, OURS):
        return ""
    if case.chunks > 1:
        return "one chunk per step only"
    needed = 4 * contender.held * case.batch * sum(p.numel() for p in case.model().parameters())
    if needed > _MEMORY_SHARE * _free():
        return f"needs about {needed / 1e9:.0f} GB"
    return ""


def _free() -> int:
    if (where := device()).type == "cuda":
        return torch.cuda.mem_get_info(where)[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _targets(rows: list[Row]) -> Iterator[Target]:
    for case, goal in GOALS.items():
        of_case = {row.contender: row for row in rows if row.case == case}
        ours = of_case.get(OURS.name)
        opacus = [of_case[c.name].milliseconds for c in OPACUS if c.name in of_case]
        best = min((value for value in opacus if value is not None), default=None)
        yield _at_most(f"{case}: step, times the plain one", goal.times_stock, ours.times_stock if ours else None)
        if goal.times_opacus is not None:
            faster = best / ours.milliseconds if best and ours and ours.milliseconds else None
            yield Target(
                f"{case}: times as fast as Opacus's best mode", f">= {goal.times_opacus}", faster,
                None if faster is None else faster >= goal.times_opacus,
            )  # fmt: skip
        yield _at_most(
            f"{case}: peak memory, times the plain one", goal.memory, ours.memory_times_stock if ours else None
        )


def _at_most(name: str, goal: float, measured: float | None) -> Target:
    return Target(name, f"<= {goal}", measured, None if measured is None else measured <= goal)
