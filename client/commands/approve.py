"""`client approve`: show a person what they agree to, say what the policy decides, and pin it."""

import dataclasses
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from client.agreement import changes, hospitals, spending, terms
from client.folder import SiteFolder
from client.ledger import epsilon_of
from client.policy import Spending, objections
from client.site import facts_of
from fedmodels.data.dataset import TRAIN
from fedmodels.data.load import load
from fedmodels.errors import Refused
from fedmodels.files import read_text
from fedmodels.study import Roster, Study, parse_roster, parse_study

_console = Console(highlight=False)


def approve(directory: Path, study_file: Path, roster_file: Path, *, yes: bool) -> None:
    """Pin a study and a roster as what this hospital takes part in; `Refused` where its policy says no."""
    study = parse_study(read_text(study_file), str(study_file))
    roster = parse_roster(read_text(roster_file), str(roster_file))
    site = SiteFolder(directory)
    site.check_roster(study, roster)
    here, elsewhere = epsilon_of(site.ledger.charges(), study.digest)
    _show(site, study, roster, spending(site.policy, study, here, elsewhere))
    _check(site, study, roster, elsewhere)
    if not yes and not typer.confirm("Did you compare the fingerprints, and does this hospital take part?"):
        _console.print("Not approved; nothing was changed.")
        raise typer.Exit(1)
    site.approve(study_file.read_bytes(), roster_file.read_bytes())
    _console.print("Approved. Whatever changes by one byte must be approved again.")


def _show(site: SiteFolder, study: Study, roster: Roster, budget: str) -> None:
    title = f"{study.study.name}, study {study.digest.hex()[:16]}, roster {roster.digest.hex()[:16]}"
    table = Table(title=title, show_header=False, show_lines=True)
    for heading, text in [*terms(study, site.invitation), ("this hospital", budget)]:
        table.add_row(heading, escape(text))
    _console.print(table)
    fingerprint = Column("fingerprint of its card", no_wrap=True)
    parties = Table("hospital", "declared size", fingerprint, title="Who takes part")
    for party in hospitals(roster, site.name):
        parties.add_row(*party)
    _console.print(parties)
    try:
        before = site.approved
    except Refused as error:
        _console.print("[bold]Nothing is approved[/] at the moment.", f"({error.what})")
        return
    different = changes(before, study, roster)
    if before.study.digest == study.digest and before.roster.digest == roster.digest:
        _console.print("The same study and roster as approved before.")
    else:
        _console.print(f"[bold]Changed[/] since {before.record.by} approved one on {before.record.time[:10]}:")
        for line in different:
            _console.print(f"  {line}", markup=False)


def _check(site: SiteFolder, study: Study, roster: Roster, elsewhere: float) -> None:
    """Print the policy's verdict; raise its first refusal."""
    patients = load(site.directory / "data.toml", study).patients_in(TRAIN)
    planned = Spending(study.epsilon_total, elsewhere) if study.privacy.mode != "none" else None
    facts = dataclasses.replace(facts_of(study, roster, site.coordinator), patients=patients, spending=planned)
    refused = list(objections(site.policy, facts))
    if not refused:
        _console.print("[bold]Policy:[/] allows it.")
        return
    _console.print("[bold red]Policy: refuses it[/], by")
    for refusal in refused:
        _console.print(f"  [bold]{refusal.rule}[/]: {escape(refusal.what)}")
    raise refused[0]
