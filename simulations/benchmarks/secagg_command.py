"""`fedmodels bench secagg`: the report as one table, or as JSON."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simulations.benchmarks import secagg as bench
from simulations.benchmarks.output import describe, print_json, verdict, wide_console

_TIMES = ("mask", "stage", "contributor", "aggregator")


def secagg(*, as_json: bool, quick: bool) -> None:
    """Measure secure aggregation and its competitors."""
    with Console(stderr=True).status("starting") as status:
        report = bench.run(bench.QUICK if quick else bench.FULL, status.update)
    if as_json:
        print_json(report)
    else:
        print_table(report)


def print_table(report: bench.Report) -> None:
    machine, floor = report.machine, report.floor
    console = wide_console()
    table = Table(
        title=f"Secure aggregation, milliseconds, medians of {report.repetitions} interleaved rounds",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("", no_wrap=True)
    for heading in (*_TIMES, "of floor", "bytes/param", "exchanges"):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, rows in groupby(report.rows, key=lambda row: row.case):
        table.add_section()
        table.add_row(f"[bold]{bench.describe(case)}[/]")
        for row in rows:
            note = f"\n  [italic]{escape(row.note)}[/]" if row.note else ""
            table.add_row(f"  {row.contender}{note}", *_cells(row))
    console.print(table)
    console.print(
        f"(x): how many times as long {bench.REFERENCE.name} takes. stage: encoding an update and masking it. "
        "contributor also: keys of the round, and what it does once uploads are in. aggregator: streaming addition and "
        "unmasking. of floor: the floor's time for the same masks, by the time of masking. A dropout costs a `retry` "
        "round a second upload (counted) and fresh training (not counted), a `recover` round one exchange (counted)."
    )
    console.print(
        f"Floor: keystream {floor.keystream_gb_per_s:.1f} GB/s + in-cache addition {floor.add_gb_per_s:.1f} GB/s on "
        f"one core, {floor.floor_gb_per_s:.1f} GB/s on {floor.cores}. {floor.masks} masks over "
        f"{floor.words / 1e6:g}M: {floor.masking_gb_per_s:.1f} GB/s, {floor.share:.0%} of it."
    )
    memory = report.memory
    console.print(
        f"Aggregator's peak resident growth at {memory.case.words / 1e6:g}M, n = {memory.case.contributors}: "
        f"{memory.bytes / 1e6:.0f} MB, {memory.model_sizes:.2f} model sizes."
    )
    scale = report.scale
    console.print(
        f"A `recover` round of {scale.round.words / 1e6:g}M, n = {scale.round.contributors}, {scale.round.dropped} "
        f"dropouts: {1e3 * scale.hospital_seconds:.0f} ms a hospital ({scale.hospitals_seconds:.1f} s for all, one "
        f"after the other), {scale.coordinator_seconds:.1f} s the coordinator."
    )
    for target in report.targets:
        value = "" if target.measured is None else f"{target.measured:.2f}"
        console.print(f"  {verdict(target.reached)}: {target.name}: {value} (goal {target.goal})")
    console.print(describe(machine, report.load_after))


def _cells(row: bench.Row) -> list[str]:
    if row.timing is None:
        return []
    times, ratios = bench.compared(row.timing), row.times_reference or {}
    return [
        *(_milliseconds(times[name]) + (f" ({ratios[name]:.1f}x)" if name in ratios else "") for name in _TIMES),
        "" if row.share_of_floor is None else f"{row.share_of_floor:.0%}",
        f"{row.bytes_up_per_parameter:.2f}",
        str(row.exchanges),
    ]


def _milliseconds(value: float) -> str:
    return "-" if value == 0 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
