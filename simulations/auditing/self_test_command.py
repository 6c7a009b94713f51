"""`fedmodels audit self-test` as an auditor sees it: a matrix of broken implementations and the checks that notice."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fedmodels.audit.checks import CHECKS
from server.console import progress_bar
from simulations.auditing.mutants import HONEST, MUTANTS
from simulations.auditing.output import as_json as encoded
from simulations.auditing.output import new_folder, write
from simulations.auditing.self_test import Row, examine
from simulations.auditing.threads import one_thread
from simulations.benchmarks.output import print_json

JSON = "self-test.json"
_FEW = 20  # honest runs: of fewer, none may be flagged
_COLUMNS = 120
_SPACE = "\N{NO-BREAK SPACE}"  # keeps number and name on one line
_console = Console(width=max(_COLUMNS, Console().width), highlight=False)


@dataclass(frozen=True)
class Tested:
    """The result. honest: how many of the honest runs each check flagged; mutants: what each check found, by kind of
    run."""

    honest_runs: int
    false_alarms: int
    checks: list[str]
    honest: dict[str, int]
    mutants: list[dict[str, Any]]
    passed: bool
    seconds: float


def self_test(honest: int, out: Path | None, *, as_json: bool) -> None:
    """Print which check flags which mutant; 1 where a mutant is missed or more honest runs are flagged than may be."""
    if out:
        new_folder(out)
    start = time.monotonic()
    rows = _examined(honest)
    correct, broken = rows[:honest], rows[honest:]
    missed = [row.mutant.name for row in broken if not row.flagged_by]
    alarms = sum(bool(row.flagged_by) for row in correct)
    passed = not missed and alarms <= (honest // 20 if honest >= _FEW else 0)
    counts = {check: sum(check in row.flagged_by for row in correct) for check in CHECKS}
    tested = Tested(honest, alarms, list(CHECKS), counts, [_told(row) for row in broken], passed,
                    time.monotonic() - start)  # fmt: skip
    if out:
        write(out, JSON, encoded(asdict(tested)))
    if as_json:
        print_json(tested)
    else:
        _print(tested, broken, missed)
    if not passed:
        raise typer.Exit(1)


def _examined(honest: int) -> list[Row]:
    """The honest runs, and behind them the mutants."""
    jobs, rows = [HONEST] * honest + list(MUTANTS), []
    with progress_bar(Console(stderr=True)) as progress, one_thread():
        task = progress.add_task("starting", total=len(jobs))
        for mutant in jobs:
            progress.update(task, description=mutant.name)
            rows.append(examine(mutant))
            progress.advance(task)
    return rows


def _told(row: Row) -> dict[str, Any]:
    return {
        "mutant": row.mutant.name,
        "about": row.mutant.about,
        "flagged_by": row.flagged_by,
        "findings": {mode: [asdict(finding) for finding in findings] for mode, findings in row.findings.items()},
    }


def _print(tested: Tested, broken: Sequence[Row], missed: Sequence[str]) -> None:
    _console.print(_matrix(tested, broken))
    _console.print("  ".join(f"{number} {check}".replace(" ", _SPACE) for number, check in enumerate(tested.checks, 1)))
    _console.print(f"Correct implementation: {tested.false_alarms} of {tested.honest_runs} runs flagged by chance.")
    said = "[bold]Every mutant was flagged.[/]" if not missed else f"[bold red]Missed[/]: {', '.join(missed)}"
    _console.print(said)


def _matrix(tested: Tested, broken: Sequence[Row]) -> Table:
    """A row for each implementation, a numbered column for each check: x where it flags it in any kind of run."""
    table = Table("", *map(str, range(1, len(tested.checks) + 1)), "runs tried", box=box.SIMPLE_HEAD,
                  title="Checks that flag an implementation", padding=(0, 1))  # fmt: skip
    name = f"honest, {tested.honest_runs} runs" if tested.honest_runs > 1 else "honest"
    table.add_row(name, *(str(count) if count else "." for count in tested.honest.values()), ", ".join(HONEST.modes),
                  end_section=True)  # fmt: skip
    for row in broken:
        cells = ("x" if check in row.flagged_by else "." for check in tested.checks)
        name = row.mutant.name if row.flagged_by else f"[bold red]{row.mutant.name}[/]"
        table.add_row(name, *cells, ", ".join(row.mutant.modes))
    return table
