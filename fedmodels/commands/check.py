"""`data check`: what is wrong with a site's records, before a study is approved or a patient is trained on."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fedmodels.data.checks.finding import Finding
from fedmodels.data.checks.page import private_folder, write_page, write_rows
from fedmodels.data.checks.run import Examination, examine
from fedmodels.errors import UsageError
from fedmodels.files import read_text
from fedmodels.study import Study, parse_study
from fedmodels.study_input import ImageInput

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Wanted:
    """What to write beside the table. out: a private folder for a page; with rows and pictures of the findings."""

    out: Path | None = None
    rows: bool = False
    pictures: bool = False


def data_check(file: Path, binding: Path, wanted: Wanted, *, as_json: bool) -> None:
    """Check the records of a binding against a study; exit with 1 where something failed."""
    study = parse_study(read_text(file), str(file))
    _check_usage(study, wanted)
    if wanted.out is not None:
        private_folder(wanted.out)
    examined = _examine(binding, study)
    written = []
    if wanted.out is not None:
        written.append(write_page(wanted.out, study, examined, pictures=wanted.pictures))
        if wanted.rows:
            written.append(write_rows(wanted.out, examined))
    if as_json:
        sys.stdout.write(json.dumps([to_json(finding) for finding in examined.findings], indent=2) + "\n")
    else:
        _show(study, examined, written)
    if examined.failed:
        raise typer.Exit(1)


def to_json(finding: Finding) -> dict[str, object]:
    """A finding without its records."""
    return {key: value for key, value in asdict(finding).items() if key != "groups"}


def _check_usage(study: Study, wanted: Wanted) -> None:
    if wanted.out is None and (wanted.rows or wanted.pictures):
        flag = "--rows" if wanted.rows else "--pictures"
        raise UsageError(f"{flag} needs a folder to write to", where=flag, fix="add --out FOLDER")
    if wanted.pictures and not isinstance(study.input, ImageInput):
        raise UsageError("the study is not of images", where="--pictures", fix="leave it out")


def _examine(binding: Path, study: Study) -> Examination:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        return examine(binding, study, show)


def _show(study: Study, examined: Examination, written: list[Path]) -> None:
    console = Console(highlight=False)
    table = Table("", "looked at", "found, and what to do", title=f"Records for {study.study.name}", box=box.SIMPLE)
    for finding in examined.findings:
        verdict = f"[{_STYLES[finding.verdict]}]{finding.verdict}[/]"
        advice = f"\n→ {finding.fix}" if finding.fix else ""
        table.add_row(verdict, escape(finding.name), escape(finding.what + advice))
    console.print(table)
    if examined.subject is not None:
        console.print("These counts are about patients of this hospital: nothing was sent, and they must not leave it.")
    for path in written:
        console.print(f"{path} written, readable for this user alone.")
