"""`fedmodels audit report`."""

from pathlib import Path

import typer
from rich.console import Console

from fedmodels.report.audit_page import write_audit

_console = Console(highlight=False)


def report(folder: Path) -> None:
    """Write `audit.html` from what the other commands of `fedmodels audit` left in a folder; 1 where it is bad news."""
    written = write_audit(folder)
    _console.print(f"Found: {', '.join(file.path for file in written.found.files)}.")
    for name, command in written.found.missing.items():
        _console.print(f"No {name}: {command}")
    if len(written.found.studies) > 1:
        _console.print("[yellow]These results are of different studies; the page says which is of which.[/]")
    for said in written.wrong:
        _console.print(f"[bold red]{said}[/]")
    _console.print(f"{written.path} written: readable by you alone, since it may have pictures of patients.")
    if written.wrong:
        raise typer.Exit(1)
