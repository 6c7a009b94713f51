"""`study new` and `study check`."""

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fedmodels.data.text import KEPT
from fedmodels.dp.accounting import epsilon_bounds
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import UsageError
from fedmodels.files import read_text, write_synced
from fedmodels.models.registry import architecture, build_model, expected_parameters, families, parameter_count, presets
from fedmodels.study import Study, Training, parse_study
from fedmodels.study_input import TextInput
from fedmodels.study_template import render

_console = Console()


def study_new(out: Path, name: str, model: str, labels: str, mode: str, hospitals: int, epsilon: float) -> None:
    """Write a commented study file; a question for every answer that was not given as a flag."""
    if out.exists():
        raise UsageError("the file exists already", where=str(out), fix="name a new file")
    models = [*families(), *presets()]
    name = name or typer.prompt("Name of the study (a-z, 0-9, -, _)")
    model = model or typer.prompt(f"Model ({', '.join(models)})")
    if model not in models:
        raise UsageError(f"there is no model `{model}`", where="--model", fix=f"use one of {', '.join(models)}")
    labels = labels or typer.prompt("Labels, separated by commas, the positive one last", default="absent,present")
    mode = mode or typer.prompt("Privacy mode (distributed, local or none)", default="distributed")
    hospitals = hospitals or typer.prompt("Number of hospitals", default=4, type=int)
    family = presets()[model].family if model in presets() else model
    text = render(name, model, family, [label.strip() for label in labels.split(",")], mode, hospitals, epsilon)
    architecture(parse_study(text, str(out)))
    write_synced(out, text.encode())
    _console.print(f"{out} written. Read it, adapt the input section to your data, then: fedmodels study check {out}")


def study_check(file: Path) -> None:
    """Say what a study is, what it promises to patients, and what that costs."""
    study = parse_study(read_text(file), str(file))
    table = Table(title=f"{study.study.name}: {study.digest.hex()[:16]}", show_header=False)
    for row in rows(study):
        table.add_row(*row)
    _console.print(table)


def rows(study: Study) -> list[tuple[str, str]]:
    """What a study is and promises, one plain line each with its heading."""
    parameters, federation = expected_parameters(study), study.federation
    plain = study.privacy.mode == "none"
    own = parameter_count(build_model(study)) - parameters
    stays = f", and {own:,} that never leave a hospital" if own else ""
    about = study.study
    words = {"what": about.description, "intended use": about.intended_use, "limits": about.limits}
    texts = [("texts", explain_text(study.input))] if isinstance(study.input, TextInput) else []
    return [
        *((heading, text) for heading, text in words.items() if text),
        ("task", f"{about.task}: {', '.join(about.labels)}"),
        ("model", f"{study.model.name}, {parameters:,} parameters{stays}"),
        *texts,
        (
            "rounds",
            f"{study.training.rounds} of {study.training.local_steps} local steps, "
            f"{federation.max_retries} retries at most",
        ),
        *([("each patient", explain_copies(study.training))] if study.training.copies > 1 and not plain else []),
        ("hospitals", f"{federation.hospitals}, sums over {federation.min_contributors} or more"),
        ("each round sends", f"{4 * parameters / 1e6:.1f} MB up and down per hospital"),
        ("privacy", explain(study, plan_for(study))),
    ]


def explain_text(input_: TextInput) -> str:
    """What a model sees of a text."""
    masked = (
        "names, numbers and dates of birth in known forms are masked first, which is no anonymisation"
        if input_.mask_identifiers
        else "identifiers are not masked: the model sees every word"
    )
    return f"of more than {input_.max_tokens} tokens {KEPT[input_.keep]}; {masked}"


def explain_copies(training: Training) -> str:
    """What a patient of several rows needs under privacy."""
    return (
        f"{training.records} records times {training.augmentations} copies are {training.copies} rows, clipped as one: "
        "they go through the model together, and every hospital needs the memory for that"
    )


def explain(study: Study, plan: Plan | None) -> str:
    """One sentence on what the study's mode means, with what it costs."""
    if plan is None:
        return (
            "mode none: the coordinator sees only sums over hospitals, but nobody adds noise, so the sums and the "
            "model may reveal patients (epsilon: infinite); a hospital takes part only if its policy allows `none` "
            "by name."
        )
    planned = epsilon_bounds(plan.event(study.training.rounds), plan.delta)
    colluding = study.privacy.max_colluding
    who, what = {
        "local": ("each hospital alone adds", "everything that leaves the hospital"),
        "distributed": (
            "the hospitals together add" if not colluding else f"the hospitals, also without {colluding} of them, add",
            "the sums over hospitals, which are all that anybody sees,",
        ),
    }[plan.mode]
    return (
        f"mode {plan.mode}: {who} noise of {plan.noise_multiplier:.2f} times the clip {plan.clip:g} to every step, so "
        f"that whether any one patient's whole record was used changes {what} by at most epsilon {planned.upper:.2f} "
        f"for training ({planned.lower:.2f} by the optimistic bound, {plan.epsilon(plan.releases):.2f} with all "
        f"retries) plus {study.privacy.evaluation_epsilon:g} for the evaluation, at delta {plan.delta:g}, against "
        f"{study.observer}."
    )
