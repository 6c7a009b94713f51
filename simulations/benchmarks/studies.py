"""The bundled studies on real data: federations with and without privacy, beside what no federation would reach.

`python -m simulations.benchmarks.studies [--study NAME] [--seeds N] [--json]` prints one table per study. A seed gives
the initial weights, the partition of pooled data and, without privacy, the batches; private runs draw batches and noise
from the operating system. Test records are the same for all seeds, so that a standard error says nothing about them.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn

from fedmodels.data.dataset import Dataset
from fedmodels.data.load import load
from fedmodels.errors import DataError, FedmodelsError, UsageError
from fedmodels.files import read_text
from fedmodels.models.batches import predict
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from server.app import OnRound
from server.records import RoundLine
from simulations.benchmarks.baselines import Predictor, scores, scores_of_each, train_linear, train_pooled
from simulations.benchmarks.rows import TABLES, Row
from simulations.federation import HospitalData, build_federation, natural, partitioned
from simulations.simulate import models_of, run_federation

COLUMNS = ("accuracy", "auroc", "auprc", "macro_f1", "hospital_accuracy", "seconds")
_TABLE_WIDTH = 130  # in a pipe rich takes 80 and would fold every cell
STUDIES = Path(__file__).parents[1] / "studies"

Scores = dict[str, float]
_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and its standard error, which a single seed does not have."""

    mean: float
    standard_error: float | None

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ±{self.standard_error:.3f}"
        return f"{self.mean:.3f}{error}"


@dataclass(frozen=True, repr=False)
class Case:
    """One row at one seed: the study, its text, and its hospitals with their records by name."""

    study: Study
    text: str
    hospitals: list[HospitalData]
    parts: dict[str, Dataset]


def summarise(runs: list[Scores]) -> dict[str, Estimate]:
    """Mean and standard error (sample deviation / sqrt(n)) of every column that all `runs` have."""
    summary = {}
    for name in COLUMNS:
        if all(name in run for run in runs):
            values = [run[name] for run in runs]
            error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            summary[name] = Estimate(float(np.mean(values)), error)
    return summary


def folder_of(table: str) -> Path:
    """The bundled study of a table, which has its name and, where there are several, after a slash what it is about."""
    return STUDIES / table.partition("/")[0]


def prepare(name: str, row: Row, seed: int) -> Case:
    """The study of a table as `row` varies it, on its natural hospitals or a partition of its pooled data."""
    folder = folder_of(name)
    text = apply_settings(read_text(folder / "study.toml"), [*row.settings, f"training.seed={seed}"])
    study = parse_study(text, str(folder / "study.toml"))
    if bindings := sorted((folder / "sites").glob("*.toml")):
        hospitals = natural(bindings)
    else:
        hospitals = partitioned(study, folder / "data.toml", study.federation.hospitals, row.partition)
    return Case(study, text, hospitals, {hospital.name: _records(hospital, study) for hospital in hospitals})


def _records(hospital: HospitalData, study: Study) -> Dataset:
    data = load(hospital.binding, study)
    return data if hospital.patients is None else data.of_patients(hospital.patients)


def measure(case: Case, row: Row, on_round: OnRound) -> Scores:
    """Scores on the exact test records, and seconds: of training, or of a federated run from set-up to evaluation."""
    train = {"linear": train_linear, "pooled": train_pooled}.get(row.kind)
    start = time.monotonic()
    if train:
        predictor = train(case.study, case.parts)
        seconds = time.monotonic() - start
        return scores(predictor, case.parts) | {"seconds": seconds}
    with tempfile.TemporaryDirectory(prefix="fedmodels-bench-") as folder:
        out = Path(folder)
        federation = build_federation(case.study, case.text.encode(), case.hospitals, out)
        result = run_federation(federation, out, "local", on_round)
        names = [site.name for site in federation.sites]
        models = dict(zip(names, models_of(federation, out), strict=True))
        predictors = {name: _predictor(model, case.study) for name, model in models.items()}
        return scores_of_each(predictors, case.parts) | {"seconds": result["seconds"]["total"]}


def _predictor(model: nn.Module, study: Study) -> Predictor:
    return lambda data: predict(model, data, study.input)


def benchmark(name: str, seeds: int, console: Console) -> dict[str, dict[str, Estimate]]:
    """The table of one study: an estimate per row title and column, over `seeds` runs of each row."""
    rows = TABLES[name]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = {}
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=len(rows) * seeds)
        for row in rows:
            runs = []
            for seed in range(seeds):
                label = f"{name}: {row.title}, seed {seed}"
                progress.update(task, description=label)

                def on_round(line: RoundLine, label: str = label) -> None:
                    progress.update(task, description=f"{label}, round {line.round}")

                runs.append(measure(prepare(name, row, seed), row, on_round))
                progress.advance(task)
            results[row.title] = summarise(runs)
    return results


def table_of(name: str, seeds: int, results: dict[str, dict[str, Estimate]]) -> Table:
    """What a person reads; `hospital_accuracy` is the unweighted mean over the hospitals."""
    table = Table("", *COLUMNS, title=f"{name}: mean ± standard error over {seeds} seed{'s' * (seeds > 1)}")
    for title, summary in results.items():
        table.add_row(title, *(str(summary[column]) if column in summary else "" for column in COLUMNS))
    return table


@_app.command()
def main(
    study: Annotated[str, typer.Option(help="Run one study only.", show_default="all whose data are here")] = "",
    seeds: Annotated[int, typer.Option(help="Runs of each row.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare the bundled studies with a linear model and with pooled training."""
    if study and study not in TABLES:
        raise UsageError(f"no benchmark of a study `{study}`", where="--study", fix=f"use one of {', '.join(TABLES)}")
    torch.set_num_threads(1)  # models this small gain nothing from a second, and lose much on a busy machine
    progress, found = Console(stderr=True), {}
    for name in [study] if study else TABLES:
        try:
            prepare(name, TABLES[name][0], 0)
        except DataError as error:
            if study:
                raise
            progress.print(f"{name} is left out. {error}", markup=False)
            continue
        found[name] = benchmark(name, seeds, progress)
        if not as_json:
            Console(width=max(_TABLE_WIDTH, progress.width)).print(table_of(name, seeds, found[name]))
    if as_json:
        typer.echo(json.dumps({"seeds": seeds, "studies": found}, indent=2, default=asdict))


def _command_line() -> None:
    """0 done, 1 failed, 2 wrong use, as in every command."""
    try:
        _app()
    except FedmodelsError as error:
        sys.stderr.write(f"benchmarks: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    _command_line()
