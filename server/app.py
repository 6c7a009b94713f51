"""The coordinator's Flower app: run config -> study and roster -> run -> run directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmodels.files import read_text
from fedmodels.study import Roster, Study, parse_roster, parse_study
from server.checkpoint import Journal
from server.exchange import Exchange
from server.records import RoundLine
from server.rounds import Coordinator
from server.rundir import RunDirectory

OnRound = Callable[[RoundLine], None]


def run_study(
    exchange: Exchange,
    study_file: Path,
    roster_file: Path,
    out: Path,
    on_round: OnRound = lambda _: None,
    heads: Path | None = None,
) -> dict[str, Any]:
    """Run a whole study over `exchange` and leave a run directory at `out`; returns the content of `result.json`.

    heads: the file of the hospitals' ledger heads; with it, the run is kept on disk so that `resume_study` can go on
    after a crash. A simulation does without.
    """
    study, roster = _parties(study_file, roster_file)
    journal = Journal(out, heads) if heads else None
    coordinator = Coordinator(study, roster, exchange, out, journal)
    directory = RunDirectory.create(out, study_file.read_bytes(), roster_file.read_bytes())
    return _work(coordinator, directory, journal, on_round)


def resume_study(exchange: Exchange, out: Path, on_round: OnRound, heads: Path) -> dict[str, Any]:
    """Go on with a run that was cut off, with the hospitals that are there; as `run_study` otherwise."""
    journal = Journal(out, heads)
    checkpoint = journal.load()
    directory = RunDirectory.reopen(out, checkpoint.line if checkpoint else None)
    coordinator = Coordinator(*_parties(directory.study, directory.roster), exchange, out, journal)
    if checkpoint:
        coordinator.resume(checkpoint)
    return _work(coordinator, directory, journal, on_round)


def _parties(study_file: Path, roster_file: Path) -> tuple[Study, Roster]:
    study = parse_study(read_text(study_file), str(study_file))
    return study, parse_roster(read_text(roster_file), str(roster_file))


def _work(
    coordinator: Coordinator, directory: RunDirectory, journal: Journal | None, on_round: OnRound
) -> dict[str, Any]:
    for line in coordinator.rounds():
        directory.add(line)
        on_round(line)
    result = directory.finish(coordinator.study, coordinator.roster, coordinator.finish())
    if journal:
        journal.forget()
    return result


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point for Flower: `study`, `roster` and `out` are paths at the coordinator, given as run config."""
    study, roster, out = (Path(str(context.run_config[key])) for key in ("study", "roster", "out"))
    run_study(Exchange(grid), study, roster, out)
