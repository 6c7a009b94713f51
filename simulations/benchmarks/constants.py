"""`fedmodels bench constants`: which learning rate and clip of mode `distributed` SYNTHETIC cohorts would choose.

Private training of the four kinds of cohorts with each pair of a grid, all else as `fedmodels study new` writes it. No
patient's data are touched, so no epsilon would have to pay for the choice; but on patients it is worse than the
defaults, which are others (`docs/privacy.md`, section 7). The regret of a pair on a cohort at
an epsilon is the AUROC that it ends below the best pair there; the pair with the least mean regret is chosen. Training
is on pooled records, whose noise is that of mode `distributed` with nobody colluding.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec
from rich import box
from rich.table import Table

from fedmodels.data.load import load
from fedmodels.settings import apply_settings
from fedmodels.study import parse_study
from fedmodels.study_template import render
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import print_json, wide_console
from simulations.benchmarks.private_training import train_pooled_private
from simulations.benchmarks.problems import Case
from simulations.benchmarks.utility import EPSILONS, score
from simulations.benchmarks.workers import Progress, progress_bar, run_all
from simulations.cohorts import LABELS, Kind, cohort_input, write_cohort

RATES = (0.25, 0.5, 1.0, 2.0)
CLIPS = (0.5, 1.0, 2.0)
HOSPITALS, SEEDS = 4, 2

_MODELS: dict[Kind, str] = {"image": "cnn", "series": "gru", "text": "text-gru", "table": "mlp"}
_PATIENTS: dict[Kind, int] = {"image": 500, "series": 1000, "text": 1000, "table": 1000}


@dataclass(frozen=True)
class Pair:
    """The constants that are chosen."""

    learning_rate: float
    clip: float


@dataclass(frozen=True)
class Job:
    """One training run. cohort: a folder for each hospital, with a binding."""

    kind: Kind
    cohort: Path
    pair: Pair
    epsilon: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}, epsilon {self.epsilon:g}"

    def run(self) -> float:
        case = _case(self)
        return score(case, train_pooled_private(case.study, case.parts))["auroc"]


@dataclass(frozen=True)
class Choice:
    """A pair, the AUROC that it reaches by cohort and epsilon (mean over seeds), and how far below the best that is."""

    pair: Pair
    auroc: dict[str, float]
    mean_regret: float
    worst_regret: float


@dataclass(frozen=True)
class Report:
    """All pairs, the one with the least mean regret first. defaults: what `fedmodels study new` writes."""

    machine: Machine
    seeds: int
    choices: tuple[Choice, ...]
    defaults: Pair


def defaults() -> Pair:
    """What a new study of mode `distributed` has."""
    study = parse_study(render("new", "mlp", "mlp", list(LABELS), "distributed", HOSPITALS, EPSILONS[-1]))
    return Pair(study.training.learning_rate, study.privacy.clip)


def run(seeds: int, progress: Progress) -> Report:
    """Train every cohort at every epsilon with every pair of the grid, `seeds` times."""
    machine, pairs = this_machine(), tuple(Pair(rate, clip) for rate in RATES for clip in CLIPS)
    with tempfile.TemporaryDirectory(prefix="fedmodels-constants-") as folder:
        found = run_all(list(_jobs(Path(folder), seeds, pairs)), machine.cores, progress)
    return Report(machine, seeds, tuple(choose(found)), defaults())


def _jobs(folder: Path, seeds: int, pairs: tuple[Pair, ...]) -> Iterator[Job]:
    for kind, patients in _PATIENTS.items():
        for seed in range(seeds):
            cohort = folder / f"{kind}-{seed}"
            write_cohort(kind, cohort, HOSPITALS, patients, seed)
            for epsilon in EPSILONS:
                for pair in pairs:
                    yield Job(kind, cohort, pair, epsilon, seed)


def _case(job: Job) -> Case:
    model = _MODELS[job.kind]
    text = render(f"synthetic-{job.kind}", model, model, list(LABELS), "distributed", HOSPITALS, job.epsilon)
    settings = (f"training.learning_rate={job.pair.learning_rate}", f"privacy.clip={job.pair.clip}",
                f"training.seed={job.seed}")  # fmt: skip
    study = msgspec.structs.replace(parse_study(apply_settings(text, settings)), input=cohort_input(job.kind))
    bindings = sorted(job.cohort.glob("*/data.toml"))
    return Case(study, {binding.parent.name: load(binding, study) for binding in bindings})


def choose(found: dict[Job, float]) -> Iterator[Choice]:
    """The pairs, the one with the least mean regret first."""
    cells: dict[Pair, dict[str, list[float]]] = {}
    for job, auroc in found.items():
        cells.setdefault(job.pair, {}).setdefault(job.name, []).append(auroc)
    means = {pair: {name: fmean(aurocs) for name, aurocs in columns.items()} for pair, columns in cells.items()}
    best = {name: max(columns[name] for columns in means.values()) for name in next(iter(means.values()))}
    regrets = {pair: [best[name] - auroc for name, auroc in columns.items()] for pair, columns in means.items()}
    for pair in sorted(means, key=lambda pair: fmean(regrets[pair])):
        yield Choice(pair, means[pair], fmean(regrets[pair]), max(regrets[pair]))


def constants(seeds: int, *, as_json: bool) -> None:
    """Run it, and print JSON or a table."""
    with progress_bar() as progress:
        report = run(seeds, progress)
    if as_json:
        print_json(report)
        return
    console = wide_console()
    names = [f"{kind}, epsilon {epsilon:g}" for kind in _PATIENTS for epsilon in EPSILONS]
    title = f"AUROC on SYNTHETIC cohorts, means of {seeds} seed{'s' * (seeds > 1)}; the least mean regret first"
    columns = ("rate", "clip", "mean regret", "worst", *(name.replace("epsilon ", "") for name in names))
    table = Table(*columns, title=title, box=box.SIMPLE_HEAD)
    for choice in report.choices:
        cells = (choice.mean_regret, choice.worst_regret, *(choice.auroc[name] for name in names))
        style = "bold" if choice.pair == report.defaults else ""
        table.add_row(
            f"{choice.pair.learning_rate:g}", f"{choice.pair.clip:g}", *(f"{cell:.3f}" for cell in cells), style=style
        )
    console.print(table)
    said = "is" if report.choices[0].pair == report.defaults else "is not"
    console.print(
        f"The pair with the least mean regret {said} what `fedmodels study new --mode distributed` writes (bold)."
    )
