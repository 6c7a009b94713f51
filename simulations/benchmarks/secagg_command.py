"""`fedmodels bench secagg`: the report as one table, or as JSON."""

from rich.console import Console
from rich.table import Table

from simulations.benchmarks import secagg as bench
from simulations.benchmarks.aggregation.contest import AGGREGATOR, CONTRIBUTOR
from simulations.benchmarks.output import describe, print_json, verdict


def secagg(*, as_json: bool, quick: bool) -> None:
    """Measure secure aggregation and its competitors."""
    with Console(stderr=True).status("starting") as status:
        report = bench.run(bench.QUICK if quick else bench.FULL, status.update)
    if as_json:
        print_json(report)
    else:
        print_table(report)


def print_table(report: bench.Report) -> None:
    console, machine, floor = Console(), report.machine, report.floor
    table = Table(title=f"Secure aggregation, milliseconds, medians of {report.repetitions} interleaved rounds")
    for heading in ("params", "n", "drop", "contender"):
        table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
    for heading in (*CONTRIBUTOR, "contributor", *AGGREGATOR, "aggregator", "B/param", "exchanges", "of floor",
                    "mask x", "stage x", "contr. x", "aggr. x"):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column("note")
    previous = None
    for row in report.rows:
        case = row.case
        first = [f"{case.words / 1e6:g}M", str(case.contributors), "one" if case.dropout else "-"]
        if case != previous:
            table.add_section()
        table.add_row(*(first if case != previous else ["", "", ""]), row.contender, *_cells(row), row.note)
        previous = case
    console.print(table)
    console.print(
        "contributor = encode + keys + mask + open; stage = encode + mask; aggregator = add + unmask. x: how many "
        f"times as long {bench.REFERENCE.name} takes. A dropout costs a `retry` round a second upload (counted) and "
        "fresh training (not counted)."
    )
    console.print(
        f"Floor, one thread: keystream {floor.keystream_gb_per_s:.1f} GB/s + in-cache addition "
        f"{floor.add_gb_per_s:.1f} GB/s = {floor.floor_gb_per_s:.1f} GB/s. {floor.masks} masks over "
        f"{floor.words / 1e6:g}M: {floor.masking_gb_per_s:.1f} GB/s, {floor.share:.0%} of it."
    )
    memory = report.memory
    console.print(
        f"Aggregator's peak resident growth at {memory.case.words / 1e6:g}M, n = {memory.case.contributors}: "
        f"{memory.bytes / 1e6:.0f} MB, {memory.model_sizes:.2f} model sizes."
    )
    for target in report.targets:
        value = "" if target.measured is None else f"{target.measured:.2f}"
        console.print(f"  {verdict(target.reached)}: {target.name}: {value} (goal {target.goal})")
    console.print(describe(machine, report.load_after))


def _cells(row: bench.Row) -> list[str]:
    if row.timing is None:
        return [""] * 15
    timing, ratios = row.timing, row.times_reference or {}
    return [
        *(_milliseconds(timing.phases[phase]) for phase in CONTRIBUTOR),
        _milliseconds(timing.contributor),
        *(_milliseconds(timing.phases[phase]) for phase in AGGREGATOR),
        _milliseconds(timing.aggregator),
        f"{row.bytes_up_per_parameter:.2f}",
        str(row.exchanges),
        "" if row.share_of_floor is None else f"{row.share_of_floor:.0%}",
        *(f"{ratios[part]:.1f}" if part in ratios else "" for part in ("mask", "stage", "contributor", "aggregator")),
    ]


def _milliseconds(value: float) -> str:
    return "-" if value == 0 else f"{value:.2f}" if value < 10 else f"{value:,.0f}"
