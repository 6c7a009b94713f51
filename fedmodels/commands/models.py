"""`evaluate`, `predict`, `report`: what to do with a finished run."""

import csv
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedmodels.data.dataset import TEST, TRAIN, UNLABELLED, Dataset
from fedmodels.data.load import load
from fedmodels.errors import DataError, UsageError
from fedmodels.evaluation.calibration import calibrated
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.evaluation.scores import predicted
from fedmodels.models import batches
from fedmodels.models.artifact import Card, load_whole_model
from fedmodels.models.device import device
from fedmodels.report.page import write_report

_SPLITS = {"test": TEST, "train": TRAIN}


def evaluate(run: Path, binding: Path, split: str, *, as_json: bool) -> None:
    """Exact metrics of the model of `run` on the labelled records of a binding."""
    model, card = load_whole_model(run)
    data = _records(binding, card, split)
    metrics = exact_metrics(batches.predict(model.to(device()), data, card.input), data.y, card.working)
    if as_json:
        sys.stdout.write(json.dumps({"metrics": metrics, "split": split, "study_hash": card.study_hash}) + "\n")
        return
    table = Table(title=f"{card.study.name} on {binding} ({split})")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}" if name != "n" else f"{value:.0f}")
    Console().print(table)


def predict(run: Path, binding: Path, split: str, out: Path | None) -> None:
    """One line per record, in the order of the data: patient, predicted label, calibrated probability of every label.

    The records need no labels. The label is that of the model's operating point.
    """
    model, card = load_whole_model(run)
    data = _records(binding, card, split, labelled=False)
    probabilities = calibrated(batches.predict(model.to(device()), data, card.input), card.temperature)
    guesses = predicted(probabilities, card.threshold)
    header = ["patient", "predicted", *(f"p({label})" for label in card.study.labels)]
    rows = [
        [patient, card.study.labels[guess], *(f"{value:.6f}" for value in row)]
        for patient, guess, row in zip(data.patients.tolist(), guesses.tolist(), probabilities, strict=True)
    ]
    if out is None:
        csv.writer(sys.stdout).writerows([header, *rows])
        return
    if out.exists():
        raise UsageError("the file exists already", where=str(out), fix="name a new file")
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    Console().print(f"{len(rows)} predictions written to {out}. They are about patients: keep them where the data are.")


def report(run: Path, examples: Path | None) -> None:
    """Write the run's report again; examples: a binding of records that may be shown, to be explained on the page."""
    shown = []
    if examples:
        from fedmodels.evaluation.explanations import pictures  # captum is slow to import

        shown = pictures(*load_whole_model(run), examples)
    console = Console()
    console.print(str(write_report(run, shown)))
    if shown:
        console.print(
            f"{len(shown)} records of {examples} are explained on it: they must be synthetic, or of people who agreed."
        )


def _records(binding: Path, card: Card, split: str, *, labelled: bool = True) -> Dataset:
    if split not in (*_SPLITS, "all"):
        raise UsageError(f"unknown split `{split}`", where="--split", fix="use test, train or all")
    data = load(binding, card, labelled=labelled)
    for note in data.notes:
        Console(stderr=True, highlight=False).print(f"note: {note}", markup=False)
    if split != "all" and (data.y == UNLABELLED).any():
        raise UsageError(
            f"the records have no labels, so there is no {split} part of them",
            where=f"--split {split}",
            fix="leave --split out to predict for all of them",
        )
    chosen = data if split == "all" else data.part(_SPLITS[split])
    if not len(chosen):
        raise DataError(f"no {split} records", where=str(binding), fix="choose another --split")
    return chosen
