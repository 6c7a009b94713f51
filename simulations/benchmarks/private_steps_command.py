"""`fedmodels bench dp`: the report as a table, or as JSON."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from simulations.benchmarks import private_steps as bench
from simulations.benchmarks.output import describe, print_json, verdict, wide_console


def private_steps(*, as_json: bool, quick: bool) -> None:
    """Measure private training steps."""
    with Console(stderr=True).status("starting") as status:
        report = bench.run(status.update, quick=quick)
    if as_json:
        print_json(report)
    else:
        print_table(report)


def print_table(report: bench.Report) -> None:
    console = wide_console()
    table = Table(
        title=f"A training step, medians of {report.repetitions} interleaved repetitions", box=box.SIMPLE_HEAD
    )
    table.add_column("", no_wrap=True)
    for heading in ("milliseconds", "times plain", "peak MB", "times plain"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, rows in groupby(report.rows, key=lambda row: row.case):
        table.add_section()
        table.add_row(f"[bold]{case}[/]")
        for row in rows:
            table.add_row(f"  {row.contender}", *_cells(row))
    console.print(table)
    console.print(f"Private steps draw noise; {_peaks_of(report.device)}.")
    for target in report.targets:
        value = "" if target.measured is None else f"{target.measured:.2f}"
        console.print(f"  {verdict(target.reached)}: {target.name}: {value} (goal {target.goal})")
    console.print(describe(report.machine, report.load_after))


def _peaks_of(device: str) -> str:
    if device == "cpu":
        return "a peak includes the interpreter and torch, about 300 MB"
    return f"all steps ran on {device}, and a peak is what torch allocated there"


def _cells(row: bench.Row) -> list[str]:
    if row.milliseconds is None or row.peak_bytes is None:
        return [row.note]
    return [
        f"{row.milliseconds:,.1f}", f"{row.times_stock:.2f}", f"{row.peak_bytes / 1e6:,.0f}",
        f"{row.memory_times_stock:.2f}",
    ]  # fmt: skip
