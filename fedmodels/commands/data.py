"""`data fetch`: public data sets."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from fedmodels.data.catalogue import CATALOGUE
from fedmodels.data.fetch import fetch


def data_fetch(name: str, into: Path) -> None:
    """Fetch one data set, or list them all."""
    console = Console()
    if not name:
        table = Table("name", "cite", "licence", title="Public data sets")
        for entry in CATALOGUE:
            table.add_row(entry.name, entry.citation, entry.licence)
        console.print(table)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def show(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done, total=total)

        paths = fetch(name, into, show)
    for path in paths:
        console.print(str(path))
