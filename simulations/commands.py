"""The commands that simulate, as a person uses them: find the data, show progress, print one table."""

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from fedmodels.data.binding import read_binding, sources
from fedmodels.dp.plan import plan_for
from fedmodels.errors import UsageError
from fedmodels.files import read_text
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from server.console import announce, describe, metrics_row, metrics_table, print_promise, progress_bar
from server.records import RoundLine
from simulations.cohorts import Kind, read_cohort, write_cohort
from simulations.federation import Federation, HospitalData, build_federation, natural, partitioned
from simulations.partition import Partition
from simulations.simulate import Backend, add_exact_metrics, run_federation

_STUDIES = Path(__file__).parent / "studies"
_console = Console()


@dataclass(frozen=True)
class Conditions:
    """How a study is simulated. drop: probability that a hospital fails in a stage of a round."""

    partition: str = "iid"
    backend: str = "local"
    drop: float = 0.0


def simulate(
    name: str, out: Path, sites: Sequence[str], data: Path | None, conditions: Conditions, settings: Sequence[str]
) -> None:
    """Run a whole study on this machine and leave the run directory `out`, which must be new."""
    backend, drop = conditions.backend, conditions.drop
    if backend not in get_args(Backend):
        raise UsageError(f"unknown backend `{backend}`", where="--backend", fix="use local or ray")
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("Ray is not installed", where="--backend", fix="run `make setup`, or install the extra `ray`")
    if drop and backend != "local":
        raise UsageError("dropouts are simulated on the local backend only", where="--drop", fix="use --backend local")
    check_new(out)
    file = study_file(name)
    number, folders = _sites(sites)
    text, study = _varied(file, number or len(folders), settings)
    if (retries := retries_for(study, drop)) > study.federation.max_retries:
        text = apply_settings(text, [f"federation.max_retries={retries}"])
        study = parse_study(text, str(file))
        _console.print(
            f"--drop {drop:g}: max_retries raised to {retries}; noise is calibrated for as many more uploads"
        )
    plan_for(study)
    with _console.status("preparing the hospitals' data"):
        hospitals = _hospitals(
            study, file, folders, data, Partition.parse(conditions.partition), out, divide=bool(number)
        )
        federation = build_federation(study, text.encode(), hospitals, out)
    announce(_console, study)
    start = time.monotonic()
    with progress_bar(_console) as progress:
        task = progress.add_task("setting up", total=study.training.rounds)

        def on_round(line: RoundLine) -> None:
            progress.update(task, completed=line.round, description=describe(line))

        run_federation(federation, out, backend, on_round, drop)  # type: ignore[arg-type]  # checked above
    result = add_exact_metrics(study, federation, out)
    _print_result(result, out, time.monotonic() - start)


def retries_for(study: Study, drop: float) -> int:
    """Aborted rounds that a study should allow where each hospital fails in a stage with probability `drop`.

    Mean plus four standard deviations of the number of failures before the last success. A `retry` round succeeds when
    nobody fails, a `recover` round (at least) when `threshold` hospitals get through all three of its stages.
    """
    hospitals, need, stages = study.federation.hospitals, study.federation.hospitals, 1
    if study.federation.on_dropout == "recover":
        need, stages = study.threshold, 3
    there = (1.0 - drop) ** stages
    success = sum(
        math.comb(hospitals, k) * there**k * (1.0 - there) ** (hospitals - k) for k in range(need, hospitals + 1)
    )
    mean = study.training.rounds * (1.0 - success) / success
    return math.ceil(mean + 4.0 * math.sqrt(mean / success))


def data_synthetic(kind: str, out: Path, hospitals: int, patients: int, seed: int) -> None:
    """Write a SYNTHETIC cohort."""
    if kind not in get_args(Kind):
        raise UsageError(f"unknown kind `{kind}`", fix=f"use one of {', '.join(get_args(Kind))}")
    for binding in write_cohort(kind, out, hospitals, patients, seed):  # type: ignore[arg-type]  # checked above
        _console.print(str(binding))


@dataclass(frozen=True)
class Subject:
    """A study, its data as `simulate` takes them, and what differs from the study file."""

    study: str
    sites: Sequence[str]
    data: Path | None
    partition: str
    settings: Sequence[str]


def prepare(subject: Subject, out: Path, accept: Callable[[Study], object]) -> tuple[Study, Federation]:
    """The hospitals of a study below `out`, which is new: what an audit has in common with a simulation.

    accept: raises an error for a study that is not to be prepared, before anything is written.
    """
    check_new(out)
    file = study_file(subject.study)
    number, folders = _sites(subject.sites)
    text, study = _varied(file, number or len(folders), subject.settings)
    accept(study)
    partition = Partition.parse(subject.partition)
    hospitals = _hospitals(study, file, folders, subject.data, partition, out, divide=bool(number))
    return study, build_federation(study, text.encode(), hospitals, out)


def check_new(out: Path) -> None:
    """Raise `UsageError` unless `out` is absent or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the folder is not empty", where=str(out), fix="name a new folder for this run")


def _varied(file: Path, hospitals: int, settings: Sequence[str]) -> tuple[str, Study]:
    """The study in a file with settings applied, and its text; hospitals: 0 for as many as it says."""
    if hospitals:
        settings = [*settings, f"federation.hospitals={hospitals}"]
    text = apply_settings(read_text(file), settings, str(file))
    return text, parse_study(text, str(file))


def study_file(name: str) -> Path:
    """The file of a bundled study, or the one that a path names."""
    bundled = _STUDIES / name / "study.toml"
    if bundled.is_file():
        return bundled
    path = Path(name)
    if path.is_dir():
        path = path / "study.toml"
    if not path.is_file():
        known = ", ".join(sorted(folder.parent.name for folder in _STUDIES.glob("*/study.toml")))
        raise UsageError(f"no study `{name}`", fix=f"give a study file, or one of the bundled studies: {known}")
    return path


def _sites(sites: Sequence[str]) -> tuple[int, list[Path]]:
    """`--sites`: either a number of hospitals, or folders (or bindings), one per hospital."""
    if len(sites) == 1 and sites[0].isdigit():
        if int(sites[0]) < 1:
            raise UsageError("at least one hospital is needed", where="--sites")
        return int(sites[0]), []
    paths = [Path(site) / "data.toml" if Path(site).is_dir() else Path(site) for site in sites]
    for path in paths:
        if not path.is_file():
            raise UsageError("no data binding there", where=f"--sites {path}", fix="name folders that hold a data.toml")
    return 0, paths


def _hospitals(
    study: Study, file: Path, folders: list[Path], data: Path | None, partition: Partition, out: Path, *, divide: bool
) -> list[HospitalData]:
    """Where the hospitals' data come from: folders named, a binding named, or what lies beside the study file."""
    count = study.federation.hospitals
    if folders:
        return natural(folders)
    if data is not None:
        return partitioned(study, data, count, partition)
    folder = file.parent
    if (folder / "cohort.toml").is_file():
        cohort = read_cohort(folder / "cohort.toml")
        return natural(write_cohort(cohort.kind, out / "cohort", count, cohort.patients_per_hospital, cohort.seed))
    if (folder / "data.toml").is_file():
        return partitioned(study, _pooled(folder), count, partition)
    if bindings := sorted((folder / "sites").glob("*.toml")):
        if divide and count != len(bindings):
            raise UsageError(
                f"this study has {len(bindings)} natural hospitals", where=f"--sites {count}", fix="leave --sites out"
            )
        return natural(bindings)
    raise UsageError(
        "no data for this study", where=str(folder), fix="name folders with --sites, or a pooled binding with --data"
    )


def _pooled(folder: Path) -> Path:
    """The pooled binding beside a study: `data.toml`, or `original.toml` where only the published files are there."""
    original = folder / "original.toml"
    if original.is_file() and not all(path.exists() for path in sources(read_binding(folder / "data.toml"))):
        return original
    return folder / "data.toml"


def _print_result(result: dict[str, Any], out: Path, seconds: float) -> None:
    table = metrics_table(result)
    simulation = result["simulation"]
    table.add_row("exact, pooled (simulation only)", *metrics_row(simulation["metrics"]))
    for hospital, metrics in simulation["per_hospital"].items():
        table.add_row(f"  {hospital}", *metrics_row(metrics))
    _console.print(table)
    print_promise(_console, result)
    _console.print(f"{seconds:.0f} s. Run directory: {out}  report: {out / 'report.html'}")
