"""`client log show` and `verify`: every message that left, and the proof of it."""

from pathlib import Path

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.folder import SiteFolder
from client.proof import Proof, prove
from client.sentlog import Line

_console = Console(highlight=False)


def show(directory: Path, run: str, *, as_json: bool) -> None:
    """Print every message out; run: only those of the run whose id begins so."""
    lines = [line for line, _ in SiteFolder(directory).sent.lines() if line.run.startswith(run.lower())]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(lines)).decode())
        return
    if not lines:
        _console.print("Nothing has left." if not run else f"Nothing of run {run} has left.")
        return
    table = Table("time", "to", "kind", "run", "session", "bytes", "sha256", "epsilon", title="What left this hospital")
    for column in (4, 5, 7):
        table.columns[column].justify = "right"
    for line in lines:
        table.add_row(*_row(line))
    _console.print(table)
    _console.print(f"{len(lines)} messages, {sum(line.bytes for line in lines):,} bytes.")


def verify(directory: Path) -> None:
    """Recompute chain and digests of all that is kept, and compare with the ledger; exit with 1 where a part is off."""
    site = SiteFolder(directory)
    found = prove(site.sent, site.ledger.charges())
    for line in _said(found):
        _console.print(line)
    for problem in found.problems:
        _console.print(f"[bold red]{problem}[/]")
    if found.problems:
        _console.print("-> find out who changed it; compare with a backup of log.jsonl and sent/")
        raise typer.Exit(1)


def _said(found: Proof) -> list[str]:
    said = [
        f"{found.messages} messages are listed{'' if found.problems else ', the chain of lines is whole'}.",
        f"{found.matching} are proven: their bytes are kept and have the SHA-256 of their line.",
    ]
    if found.absent:
        said.append(f"{found.absent} are not: their bytes are not kept any more (`keep_sent_megabytes`), or not whole.")
    if not found.problems:
        said.append(f"{found.uploads} masked vectors left, each with its charge in the ledger.")
    if found.unused:
        said.append(
            f"{found.unused} charges have no upload on the log: the hospital failed between the two, or lines were "
            "removed at the end."
        )
    if found.unlisted:
        said.append(
            f"{found.unlisted} messages are kept that no line lists: the hospital failed before they left, or lines "
            "were removed at the end."
        )
    return said


def _row(line: Line) -> tuple[str, ...]:
    session = "" if line.session is None else str(line.session)
    epsilon = "" if line.epsilon is None else f"{line.epsilon:.3f}"
    return line.time, escape(line.to), line.kind, line.run[:8], session, f"{line.bytes:,}", line.sha256[:16], epsilon
