"""`fedmodels audit membership` as an auditor sees it: who can be told to have been trained on, by site and by class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedmodels.audit.membership import Flags, Floats, Roc, halves, lira, rmia, roc
from fedmodels.data.load import load
from fedmodels.errors import DataError, FileError
from fedmodels.files import read_text
from fedmodels.models.artifact import load_whole_model
from fedmodels.models.device import device
from fedmodels.study import Study, parse_study
from simulations.auditing.output import as_json, new_folder, write
from simulations.auditing.pictures import roc_curves
from simulations.auditing.shadows import Patients, train_shadow
from simulations.auditing.threads import one_thread
from simulations.federation import natural

PLOT, JSON = "roc.png", "membership.json"
_FEWEST = 20  # members, and others, in a group that is reported
_FEWEST_SHADOWS_OF_LIRA = 4
_DEVIATIONS, _CHANCE = 3.1, 1e-3  # one-sided: one test in a thousand says leak where there is none
_WARNING = (
    "This is no evidence of safety. Such attacks see one model from outside and find next to nothing even in models "
    "that were trained without privacy; what they miss another attack may find. What bounds every attack is epsilon."
)
_ASSUMPTION = (
    "It takes the training patients of the data for members and the test patients for others: data that the run was "
    "not trained on, or test patients from another time or place, make the figures meaningless."
)


@dataclass(frozen=True, repr=False)
class Row:
    """One attack on one group of patients. curve: None where the group is too small to say anything of it."""

    attack: str
    group: str
    members: int
    others: int
    curve: Roc | None


def membership(run: Path, bindings: Sequence[Path], shadows: int, out: Path) -> None:
    """Attack the model of `run` on the patients of its hospitals' bindings."""
    console = Console()
    model, card = load_whole_model(run)
    study = parse_study(read_text(run / "study.toml"), str(run / "study.toml"))
    if card.study_hash != study.digest.hex():
        raise FileError("the model is not of this study", where=str(run), fix="name a run directory as a run left it")
    patients = _patients(study, bindings)
    inside = halves(shadows, len(patients), study.training.seed)
    new_folder(out)
    with one_thread():
        target = patients.confidences(model.to(device()), study.input)
        signals = _shadow_signals(console, study, patients, inside)
    scores = {"RMIA": rmia(target, signals, ~patients.member)}
    if shadows >= _FEWEST_SHADOWS_OF_LIRA:
        scores = {"LiRA": lira(target, signals, inside), **scores}
    rows = [row for attack, values in scores.items() for row in _rows(attack, values, patients, study)]
    whole = {row.attack: row.curve for row in rows if row.group == "everyone" and row.curve}
    write(out, PLOT, roc_curves(whole))
    write(out, JSON, as_json(_record(study, shadows, rows)))
    _print(console, study, shadows, rows, out)


def _patients(study: Study, bindings: Sequence[Path]) -> Patients:
    patients = Patients.of({site.name: load(site.binding, study) for site in natural(list(bindings))})
    members = int(patients.member.sum())
    if min(members, len(patients) - members) < _FEWEST:
        raise DataError(
            f"{members} training and {len(patients) - members} test patients are too few to compare",
            where=", ".join(map(str, bindings)),
            fix=f"name data with at least {_FEWEST} of each",
        )
    return patients


def _shadow_signals(console: Console, study: Study, patients: Patients, inside: Flags) -> Floats:
    """[shadows, patients] confidences of the shadow models."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    signals = []
    with Progress(*columns, console=console, transient=True) as progress:
        for chosen in progress.track(inside, description="training shadow models"):
            shadow = train_shadow(study, patients.training_sets(chosen))
            signals.append(patients.confidences(shadow, study.input))
    return np.stack(signals)


def _rows(attack: str, scores: Floats, patients: Patients, study: Study) -> Iterator[Row]:
    for group, chosen in _groups(patients, study):
        members = int(patients.member[chosen].sum())
        others = int(chosen.sum()) - members
        enough = min(members, others) >= _FEWEST
        yield Row(attack, group, members, others, roc(scores[chosen], patients.member[chosen]) if enough else None)


def _groups(patients: Patients, study: Study) -> Iterator[tuple[str, Flags]]:
    yield "everyone", np.ones(len(patients), np.bool_)
    for name in patients.records:
        yield f"site {name}", patients.site == name
    for position, label in enumerate(study.study.labels):
        yield f"class {label}", patients.label == position


def _leaks(curve: Roc) -> bool:
    return curve.deviations > _DEVIATIONS or curve.chance_of_top < _CHANCE


def _print(console: Console, study: Study, shadows: int, rows: list[Row], out: Path) -> None:
    title = f"{study.study.name}: who was trained on, told from probabilities; {shadows} shadow models"
    table = Table("attack", "patients", title=title)
    for heading in ("members", "others", "area", "found at 1%", "found at 0.1%"):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = ("too few", "", "") if row.curve is None else (
            f"{row.curve.area:.3f}", _percent(row.curve.true_at(0.01)), _percent(row.curve.true_at(0.001)),
        )  # fmt: skip
        table.add_row(row.attack, row.group, str(row.members), str(row.others), *figures)
    console.print(table)
    console.print(
        "`area` is 0.5 where the attack says nothing; `found` is the share of members found while 1% or 0.1% of the "
        "others are accused, `-` where there are too few others to tell."
    )
    if any(row.curve and _leaks(row.curve) for row in rows if row.group == "everyone"):
        console.print("[bold red]The model gives away who was trained on.[/]")
    else:
        console.print(f"[bold]These attacks found nothing. {_WARNING}[/]")
    console.print(_ASSUMPTION)
    console.print(f"{out / PLOT}  {out / JSON}")


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def _record(study: Study, shadows: int, rows: list[Row]) -> dict[str, Any]:
    return {
        "study": study.study.name,
        "study_hash": study.digest.hex(),
        "mode": study.privacy.mode,
        "shadows": shadows,
        "rows": [_figures(row) for row in rows],
        "warning": _WARNING,
        "assumption": _ASSUMPTION,
    }


def _figures(row: Row) -> dict[str, Any]:
    counts = {"attack": row.attack, "group": row.group, "members": row.members, "others": row.others}
    if row.curve is None:
        return counts
    return {
        **counts,
        "area": row.curve.area,
        "true_at_false_0.01": row.curve.true_at(0.01),
        "true_at_false_0.001": row.curve.true_at(0.001),
        "deviations_above_nothing": row.curve.deviations,
        "chance_of_top_percent": row.curve.chance_of_top,
        "leaks": _leaks(row.curve),
    }
