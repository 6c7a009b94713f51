"""`server run` and `server resume`: a study over the link, in this process, on disk round by round."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from flwr.serverapp import Grid
from rich.console import Console

from fedmodels.errors import RunError, UsageError
from fedmodels.files import read_text
from fedmodels.study import Hospital, Study, check_roster, parse_roster, parse_study
from server.app import OnRound, resume_study, run_study
from server.console import announce, describe, metrics_table, print_promise, progress_bar
from server.exchange import Exchange
from server.home import Home
from server.kept import forget_uploads
from server.link import Link
from server.nodes import link_config, register_roster
from server.records import RoundLine
from server.rundir import check_new

_console = Console()

Work = Callable[[Grid, OnRound], dict[str, Any]]


def run(directory: Path, study_file: Path, out: Path | None) -> None:
    """Run a study with everybody on the coordinator's roster."""
    home = Home(directory)
    study = parse_study(read_text(study_file), str(study_file))
    roster = parse_roster(read_text(home.roster_file), str(home.roster_file))
    check_roster(study, roster)
    target = out or home.runs / f"{study.study.name}-{datetime.now():%Y%m%d-%H%M%S}"
    check_new(target)

    def work(grid: Grid, on_round: OnRound) -> dict[str, Any]:
        return run_study(Exchange(grid), study_file, home.roster_file, target, on_round, home.heads)

    _carry_out(home, study, roster.hospital, target, work)


def resume(directory: Path, target: Path | None) -> None:
    """Go on with a run where its last finished round left it."""
    home = Home(directory)
    target = target or _unfinished(home)
    study = parse_study(read_text(target / "study.toml"), str(target / "study.toml"))
    roster = parse_roster(read_text(target / "roster.toml"), str(target / "roster.toml"))

    def work(grid: Grid, on_round: OnRound) -> dict[str, Any]:
        return resume_study(Exchange(grid), target, on_round, home.heads)

    _carry_out(home, study, roster.hospital, target, work)


def _carry_out(home: Home, study: Study, hospitals: tuple[Hospital, ...], target: Path, work: Work) -> None:
    with home.hold("run"):
        for each in (*home.runs.glob("*"), target):
            forget_uploads(each)
        link = Link(link_config(home))
        register_roster(link, hospitals)
        announce(_console, study)
        _console.print(f"Run directory: {target}")
        with progress_bar(_console) as progress, _stopping(target) as check:
            task = progress.add_task("waiting for the hospitals", total=study.training.rounds)

            def on_round(line: RoundLine) -> None:
                progress.update(task, completed=line.round, description=describe(line))
                if line.round < study.training.rounds:
                    check()

            with link.open_run(study.study.name) as grid:
                result = work(grid, on_round)
    _console.print(metrics_table(result))
    print_promise(_console, result)
    _console.print(f"{result['seconds']['total']:.0f} s. Report: {target / 'report.html'}")


@contextmanager
def _stopping(target: Path) -> Iterator[Callable[[], None]]:
    """Ctrl-C and `server stop` end the run after the round; Ctrl-C twice and SIGTERM at once. The former raises
    `RunError` out of the function that is given."""
    asked = False

    def after_the_round(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        _console.print("stopping after this round; once more to stop now (the round is then repeated later)")

    def at_once(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise RunError("the run was stopped", where=str(target), fix="`server resume` goes on with it")

    before = [signal.signal(signal.SIGINT, after_the_round), signal.signal(signal.SIGTERM, at_once)]
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _unfinished(home: Home) -> Path:
    """The run that was worked on last and has no result."""
    runs = [path for path in home.runs.glob("*/rounds.jsonl") if not (path.parent / "result.json").exists()]
    if not runs:
        raise UsageError("there is no unfinished run", where=str(home.runs), fix="begin one with `server run`")
    return max(runs, key=lambda path: path.stat().st_mtime).parent
