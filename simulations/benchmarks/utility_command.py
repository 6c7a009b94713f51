"""`fedmodels bench utility` as people see it: a table per data set, a plot, the goals."""

import math
from pathlib import Path

from rich import box
from rich.table import Table

from fedmodels.errors import UsageError
from simulations.benchmarks import utility as bench
from simulations.benchmarks.output import print_json, verdict, wide_console
from simulations.benchmarks.problems import PROBLEMS
from simulations.benchmarks.workers import progress_bar


def utility(problem: str, seeds: int | None, plot: Path | None, *, as_json: bool) -> None:
    """Run it, and print JSON or tables."""
    if problem and problem not in PROBLEMS:
        raise UsageError(f"there is no problem `{problem}`", where="--problem", fix=f"use one of {', '.join(PROBLEMS)}")
    names = (problem,) if problem else tuple(PROBLEMS)
    with progress_bar() as progress:
        report = bench.run(names, seeds, progress)
    if plot:
        draw(report, plot)
    if as_json:
        print_json(report)
    else:
        print_tables(report)


def print_tables(report: bench.Report) -> None:
    console = wide_console()
    for result in report.results:
        title = f"{result.problem}: {result.metric}, mean ± standard error over {result.seeds} seeds, " \
                f"{result.hospitals} hospitals"  # fmt: skip
        table = Table("", *(f"epsilon {epsilon:g}" for epsilon in bench.EPSILONS), title=title, box=box.SIMPLE_HEAD)
        table.add_row(bench.NON_PRIVATE, _cell(result.point(bench.NON_PRIVATE, None)))
        for row in bench.ROWS:
            if any(point.row == row for point in result.points):
                table.add_row(row, *(_cell(result.point(row, epsilon)) for epsilon in bench.EPSILONS))
        console.print(table)
        for target in result.targets:
            said = "gap too small" if target.reached is None else verdict(target.reached)
            console.print(f"  {said}: {target.name}: {target.measured:.3f} (goal {target.goal})")


def _cell(point: bench.Point) -> str:
    error = "" if math.isnan(point.standard_error) else f" ± {point.standard_error:.3f}"
    return f"{point.mean:.3f}{error}"


def draw(report: bench.Report, path: Path) -> None:
    """The score against epsilon, one panel per data set; bars are standard errors.

    A row has one colour in all panels, and the one legend below them has every row of any panel.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(4.2 * len(report.results), 3.8), layout="constrained")
        panels = figure.subplots(1, len(report.results), squeeze=False)[0]
        for axes, result in zip(panels, report.results, strict=True):
            plain = result.point(bench.NON_PRIVATE, None)
            axes.axhline(plain.mean, color="0.5", linestyle="--", label=bench.NON_PRIVATE)
            for number, row in enumerate(bench.ROWS):
                points = [point for point in result.points if point.row == row]
                if points:
                    axes.errorbar(
                        [point.epsilon for point in points], [point.mean for point in points],
                        [point.standard_error for point in points], marker="o", capsize=3, label=row,
                        color=f"C{number}",
                    )  # fmt: skip
            axes.set(xscale="log", xlabel="epsilon", ylabel=result.metric, title=result.problem)
            axes.set_xticks(bench.EPSILONS, [f"{epsilon:g}" for epsilon in bench.EPSILONS], minor=False)
            axes.minorticks_off()
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        shown = [label for label in (bench.NON_PRIVATE, *bench.ROWS) if label in handles]
        figure.legend(
            [handles[label] for label in shown], shown, fontsize=8, loc="outside lower center", ncols=2 * len(panels)
        )
        figure.savefig(path)
