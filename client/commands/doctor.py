"""`client doctor`: every check as a table, with what to do."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from client.coordinator_check import Check
from client.doctor import ALL, examine
from client.site import Site

_console = Console(highlight=False)
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(directory: Path, *, as_json: bool) -> None:
    """Run every check; exit with 1 where one failed."""
    site = Site(directory)
    checks = [*examine(site, ALL)]
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        show(site.name, checks)
    if failed(checks):
        raise typer.Exit(1)


def failed(checks: Sequence[Check]) -> bool:
    """Whether the hospital is not ready."""
    return any(check.state == "fail" for check in checks)


def show(hospital: str, checks: Sequence[Check]) -> None:
    """Print checks as a table."""
    table = Table("", "", "found", "what to do", title=f"Is {hospital} ready?")
    for check in checks:
        table.add_row(check.what, f"[{_STYLES[check.state]}]{check.state}[/]", escape(check.found), escape(check.do))
    _console.print(table)
