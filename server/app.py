"""The coordinator's Flower app: run config -> study and roster -> run -> run directory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmodels.files import read_text
from fedmodels.study import parse_roster, parse_study
from server.exchange import Exchange
from server.rounds import Coordinator, RoundLine
from server.rundir import RunDirectory

OnRound = Callable[[RoundLine], None]


def run_study(
    exchange: Exchange, study_file: Path, roster_file: Path, out: Path, on_round: OnRound = lambda _: None
) -> dict[str, Any]:
    """Run a whole study over `exchange` and leave a run directory at `out`; returns the content of `result.json`."""
    study_text, roster_text = read_text(study_file), read_text(roster_file)
    study, roster = parse_study(study_text, str(study_file)), parse_roster(roster_text, str(roster_file))
    coordinator = Coordinator(study, roster, exchange, os.urandom(16))
    directory = RunDirectory(out, study_text.encode(), roster_text.encode())
    for line in coordinator.rounds():
        directory.add(line)
        on_round(line)
    return directory.finish(study, roster, coordinator.finish())


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point for Flower: `study`, `roster` and `out` are paths at the coordinator, given as run config."""
    study, roster, out = (Path(str(context.run_config[key])) for key in ("study", "roster", "out"))
    run_study(Exchange(grid), study, roster, out)
