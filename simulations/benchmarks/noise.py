"""`fedmodels bench noise`: what cryptographic, exact noise costs beside ordinary generators, on one thread."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedmodels.dp.discrete_gaussian import discrete_gaussian
from fedmodels.dp.randomness import SecureSource
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import describe, print_json, verdict, wide_console

_COUNT = 1_000_000
_SIGMAS = (3.0, 1000.0, 1e6)
_GOAL_MS = 60.0
_FULL, _QUICK = 21, 3


@dataclass(frozen=True)
class Row:
    """milliseconds: median time of a million draws; first: of the first call, which may make a table."""

    sampler: str
    milliseconds: float
    first: float
    exact: bool


@dataclass(frozen=True)
class Report:
    """reached: whether every exact sampler takes at most `goal` milliseconds; load_after: see `Machine.load`."""

    machine: Machine
    repetitions: int
    rows: tuple[Row, ...]
    goal: float
    reached: bool
    load_after: float


def noise(*, as_json: bool, quick: bool) -> None:
    """Measure noise and print a table, or JSON."""
    report = run(_QUICK if quick else _FULL)
    if as_json:
        print_json(report)
    else:
        print_table(report)


def run(repetitions: int) -> Report:
    """Interleaved repetitions of every sampler, after a first call of each."""
    machine, threads = this_machine(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samplers = _samplers()
        first = {name: _seconds(draw) for name, draw in samplers.items()}
        times = [{name: _seconds(draw) for name, draw in samplers.items()} for _ in range(repetitions)]
    finally:
        torch.set_num_threads(threads)
    rows = tuple(
        Row(name, 1e3 * median(t[name] for t in times), 1e3 * first[name], name.startswith("discrete"))
        for name in samplers
    )
    reached = all(row.milliseconds <= _GOAL_MS for row in rows if row.exact)
    return Report(machine, repetitions, rows, _GOAL_MS, reached, round(os.getloadavg()[0], 2))


def _samplers() -> dict[str, Callable[[], object]]:
    source, generator, tensor = SecureSource(), np.random.default_rng(), torch.empty(_COUNT)

    def discrete(sigma: float) -> Callable[[], object]:
        return lambda: discrete_gaussian(_COUNT, sigma, source)

    return {
        **{f"discrete Gaussian, sigma {sigma:,.0f}": discrete(sigma) for sigma in _SIGMAS},
        "SecureSource.normal": lambda: source.normal(_COUNT),
        "numpy normal (not cryptographic)": lambda: generator.standard_normal(_COUNT),
        "torch normal_ (not cryptographic, float32)": lambda: tensor.normal_(),
    }


def _seconds(draw: Callable[[], object]) -> float:
    start = time.perf_counter()
    draw()
    return time.perf_counter() - start


def print_table(report: Report) -> None:
    console: Console = wide_console()
    table = Table(title=f"A million draws on one thread, medians of {report.repetitions} interleaved repetitions")
    for heading in ("", "ms", "first call, ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in report.rows:
        table.add_row(row.sampler, f"{row.milliseconds:.1f}", f"{row.first:.1f}")
    console.print(table)
    console.print(f"  {verdict(report.reached)}: a million exact draws in {report.goal:.0f} ms at most")
    console.print(describe(report.machine, report.load_after))
