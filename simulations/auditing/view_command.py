"""`fedmodels audit view` as an auditor sees it: a warning, a table, and a picture grid where it was asked for."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedmodels.data.load import load
from fedmodels.errors import UsageError
from fedmodels.files import read_text
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from fedmodels.study_input import ImageInput, TextInput
from simulations.auditing import image_views, text_views
from simulations.auditing.output import as_json, new_folder, write
from simulations.auditing.patients import ATTACKED, Cast, choose
from simulations.auditing.pictures import grid
from simulations.commands import study_file

GRID, JSON = "grid.png", "view.json"
_WHOSE = (
    "[bold]This attacks patients' records.[/] Give it only data that you may look at. What it writes stays in the "
    "folder that you named, readable by you alone."
)
_LIMIT = (
    "These are attacks that we know, on a new model and batches of our choice. What they miss another attack may find: "
    "only noise, and the epsilon that follows from it, holds against all of them."
)
_HARD_MODEL = (
    "[bold]On this model the attacks see less than a guess even without protection. That is no protection:[/] they do "
    "not try everything, and what they read out exactly is a patient's data as well."
)
_BUCKETS = (
    "A bucket is not a word: several words share one. But how words fall into buckets is public, and whoever hashes a "
    "dictionary knows the few words that each bucket can stand for."
)


def view(name: str, data: Path, out: Path, settings: Sequence[str]) -> None:
    """Attack the updates of some patients of a binding, with and without each protection of a study."""
    console = Console()
    file = study_file(name)
    study = parse_study(apply_settings(read_text(file), settings, str(file)), str(file))
    if not isinstance(study.input, ImageInput | TextInput):
        modality = study.input.__struct_config__.tag
        raise UsageError(
            f"there is no view for input of modality `{modality}`", where=str(file), fix="use a study of images or text"
        )
    new_folder(out)
    cast = choose(load(data, study), study.training.seed, str(data))
    console.print(_WHOSE)
    if study.privacy.mode == "none":
        console.print(
            "The study has no privacy, so that no view has noise. --mode distributed shows what noise would do."
        )
    if isinstance(study.input, TextInput):
        _texts(console, study, cast, out)
    else:
        _images(console, study, study.input, cast, out)
    console.print(_LIMIT)


def _images(console: Console, study: Study, input_: ImageInput, cast: Cast, out: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=image_views.steps_of(study))
        gallery = image_views.show(
            study, cast, lambda name: progress.update(task, description=name), lambda: progress.advance(task)
        )
    table = Table(title=f"{study.study.name}: {input_.height} x {input_.width} pixels, model {study.model.name}")
    table.add_column("what the coordinator sees")
    for heading in ("PSNR", "guess", "SSIM", "guess", "exact"):
        table.add_column(heading, justify="right")
    for one in gallery.views:
        likeness = (one.psnr, one.baseline_psnr), (one.ssim, one.baseline_ssim)
        cells = [f"{value:.1f} dB" for value in likeness[0]] + [f"{value:.2f}" for value in likeness[1]]
        table.add_row(one.name, *cells, "" if one.exact is None else f"{one.exact} of {ATTACKED}")
    write(out, GRID, grid(gallery))
    write(out, JSON, as_json(_record(study, [_numbers(one) for one in gallery.views])))
    console.print(table)
    console.print(
        "`guess` is the mean picture of the class, which needs no update; `exact` how many patients' inputs to the "
        f"dense layer were read out of the sum to within 1%. [bold]{out / GRID} shows patients[/]: delete it when you "
        "have seen it."
    )
    if all(one.psnr <= one.baseline_psnr for one in gallery.views):
        console.print(_HARD_MODEL)


def _numbers(one: image_views.View) -> dict[str, Any]:
    return {
        "view": one.name, "patients": len(one.pictures), "psnr_db": one.psnr, "guess_psnr_db": one.baseline_psnr,
        "ssim": one.ssim, "guess_ssim": one.baseline_ssim, "exact_dense_inputs": one.exact,
    }  # fmt: skip


def _texts(console: Console, study: Study, cast: Cast, out: Path) -> None:
    with console.status("reading updates"):
        views = text_views.show(study, cast)
    table = Table("what the coordinator sees", title=f"{study.study.name}: hash buckets of patients' words")
    for heading in ("buckets", "found", "guess"):
        table.add_column(heading, justify="right")
    for one in views:
        table.add_row(one.name, str(one.tokens), f"{one.share:.0%}", f"{one.baseline:.0%}")
    write(out, JSON, as_json(_record(study, [asdict(one) for one in views])))
    console.print(table)
    console.print("`guess` names the most common buckets of other texts, which needs no update.")
    console.print(_BUCKETS)


def _record(study: Study, views: list[dict[str, Any]]) -> dict[str, Any]:
    privacy = study.privacy
    return {
        "study": study.study.name,
        "study_hash": study.digest.hex(),
        "mode": privacy.mode,
        "epsilon": None if privacy.mode == "none" else privacy.epsilon,
        "hospitals": study.federation.hospitals,
        "views": views,
        "limit": _LIMIT,
    }
