"""The bundled studies on real data: federated with and without privacy, beside what no federation would reach.

`python -m simulations.benchmarks.studies [--study NAME] [--seeds N] [--json]` prints one table per study. A seed gives
the initial weights, the partition of pooled data and, without privacy, the batches; private runs draw their batches and
noise from the operating system. Test records are the same for all seeds.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedmodels.data.dataset import Dataset
from fedmodels.data.load import load
from fedmodels.errors import FedmodelsError, UsageError
from fedmodels.files import read_text
from fedmodels.models.artifact import load_model
from fedmodels.models.batches import predict
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from server.rounds import RoundLine
from simulations.benchmarks.baselines import Predictor, scores, train_linear, train_pooled
from simulations.benchmarks.variations import SUITES, Variation
from simulations.federation import HospitalData, build_federation, natural, partitioned
from simulations.partition import Partition
from simulations.simulate import run_federation

COLUMNS = ("accuracy", "auroc", "auprc", "macro_f1", "hospital_accuracy", "seconds")
_STUDIES = Path(__file__).parents[1] / "studies"

OnRound = Callable[[RoundLine], None]


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and its standard error (None for a single seed)."""

    mean: float
    standard_error: float | None


@dataclass(frozen=True)
class Case:
    """One variation of one study at one seed, with the data of its hospitals by name."""

    study: Study
    text: str
    hospitals: list[HospitalData]
    parts: dict[str, Dataset]


def estimate(values: list[float]) -> Estimate:
    """Mean and standard error of the mean (sample standard deviation over the square root of n)."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error)


def summarise(runs: list[dict[str, float]]) -> dict[str, Estimate]:
    """An estimate of every column that all runs of a row have."""
    return {name: estimate([run[name] for run in runs]) for name in COLUMNS if all(name in run for run in runs)}


def prepare(name: str, settings: tuple[str, ...], partition: Partition, seed: int) -> Case:
    """The bundled study `name` with these settings, on its natural hospitals or on a partition of its pooled data."""
    folder = _STUDIES / name
    text = apply_settings(read_text(folder / "study.toml"), [*settings, f"training.seed={seed}"])
    study = parse_study(text, str(folder / "study.toml"))
    bindings = sorted((folder / "sites").glob("*.toml"))
    hospitals = (
        natural(bindings)
        if bindings
        else partitioned(study, folder / "data.toml", study.federation.hospitals, partition)
    )
    return Case(study, text, hospitals, {hospital.name: _records(hospital, study) for hospital in hospitals})


def _records(hospital: HospitalData, study: Study) -> Dataset:
    data = load(hospital.binding, study)
    return data if hospital.patients is None else data.of_patients(hospital.patients)


def federated(case: Case, on_round: OnRound) -> dict[str, float]:
    """Scores and seconds of a whole run in a temporary directory: secure aggregation, ledgers and reports included."""
    with tempfile.TemporaryDirectory(prefix="fedmodels-bench-") as folder:
        out = Path(folder)
        federation = build_federation(case.study, case.text.encode(), case.hospitals, out)
        start = time.monotonic()
        run_federation(federation, out, "local", on_round)
        seconds = time.monotonic() - start
        model, _ = load_model(out)
        return scores(lambda data: predict(model, data, case.study.input), case.parts) | {"seconds": seconds}


def centralised(case: Case, train: Callable[[Study, dict[str, Dataset]], Predictor]) -> dict[str, float]:
    """Scores and seconds of a model that is trained on all hospitals' records in one place."""
    start = time.monotonic()
    predictor = train(case.study, case.parts)
    seconds = time.monotonic() - start
    return scores(predictor, case.parts) | {"seconds": seconds}
