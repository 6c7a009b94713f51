"""`fedmodels bench round`: the report as a table, or as JSON."""

from rich.console import Console
from rich.table import Table

from simulations.benchmarks import round_overhead as bench
from simulations.benchmarks.output import describe, print_json, verdict, wide_console


def round_overhead(*, as_json: bool, quick: bool) -> None:
    """Measure what secure aggregation adds to a simulated round."""
    with Console(stderr=True).status("starting") as status:
        report = bench.run(bench.QUICK if quick else bench.FULL, status.update)
    if as_json:
        print_json(report)
    else:
        print_table(report)


def print_table(report: bench.Report) -> None:
    console = wide_console()
    table = Table(title=f"A simulated round, milliseconds, medians of {report.repetitions} interleaved rounds")
    for heading in ("model", "mode", "params", "hospitals", "local steps", "secure", "plain sum", "more", "in secagg",
                    "in plain sum", "more, by parts"):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(
            row.model, row.mode, f"{row.parameters / 1e6:.2f}M", str(row.hospitals), str(row.local_steps),
            f"{row.secure_ms:,.0f}", f"{row.plain_ms:,.0f}", f"{row.overhead:+.1%}",
            f"{row.secure_part_ms:.1f}", f"{row.plain_part_ms:.1f}", f"{row.by_parts:+.1%}",
        )  # fmt: skip
    console.print(table)
    console.print("More, by parts: the difference of the two columns before it, over the round with a plain sum.")
    console.print(f"  {verdict(report.reached)}: at most {report.goal - 1:.0%} more in mode `local`, by parts")
    console.print(describe(report.machine, report.load_after))
