"""`fedmodels audit transcript`: what a hospital's own log and ledger prove, as one table."""

from dataclasses import asdict
from pathlib import Path

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from client.folder import SiteFolder
from client.transcript.examination import Transcript, examine
from fedmodels.errors import UsageError
from fedmodels.files import write_synced

JSON = "transcript.json"
_SHOWN = 5  # problems of one check; JSON has them all
_STYLES = {"right": "right", "wrong": "[bold red]wrong[/]", "not examined": "[yellow]not examined[/]"}
_LIMIT = (
    "Uniform bytes show that something masks, not that nobody else knows the mask; and a log shows what this software "
    "sent, not what somebody carried out of the house."
)
_console = Console(highlight=False)


def transcript(directory: Path, out: Path | None, *, as_json: bool) -> None:
    """Examine a site directory, offline; exit with 1 where anything is wrong. Several to a folder `out` may follow."""
    if not (directory / "name").is_file():
        raise UsageError("is not a hospital's site directory", where=str(directory), fix="name one that has a `name`")
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the folder is not empty", where=f"--out {out}", fix="name a new folder")
    found = examine(SiteFolder(directory))
    record = msgspec.json.format(
        msgspec.json.encode({**asdict(found), "wrong": found.wrong, "limit": _LIMIT}), indent=2
    )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_synced(out / JSON, record + b"\n")
    if as_json:
        typer.echo(record.decode())
    else:
        _print(found)
    if found.wrong:
        raise typer.Exit(1)


def _print(found: Transcript) -> None:
    table = Table("check", "examined", "verdict", title=f"What left {found.hospital}, study {found.study}",
                  box=box.SIMPLE_HEAD)  # fmt: skip
    for check in found.checks:
        table.add_row(check.check, check.examined, _STYLES[check.verdict])
    _console.print(table)
    for check in found.checks:
        for problem in check.problems[:_SHOWN]:
            _console.print(f"[bold red]{check.check}[/]: {problem}")
        if len(check.problems) > _SHOWN:
            _console.print(f"[bold red]{check.check}[/]: {len(check.problems) - _SHOWN} more, see --json")
    if found.wrong:
        _console.print("-> find out who changed what; compare with backups of log.jsonl, sent/ and the ledger")
    else:
        _console.print(f"[bold]Nothing is wrong with what left.[/] {_LIMIT}")
