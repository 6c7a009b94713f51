"""`fedmodels bench deployment`: seconds per round of a coordinator and three hospitals, each in processes of their own.

Everything is as in a deployment on one machine: `server up`, three `client up`, `server run`, TLS on loopback, ledgers
and checkpoints synced. What a round takes beyond training is its time less that of one hospital's training step, which
is measured by itself; the three hospitals train at the same time on this machine's cores.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import median

import numpy as np

from client.commands.joining import init
from client.contribution import Task, update_vector
from client.folder import SiteFolder
from fedmodels.data.dataset import TRAIN
from fedmodels.data.load import load
from fedmodels.dp.plan import plan_for
from fedmodels.errors import RunError
from fedmodels.files import read_text
from fedmodels.joining import parse_card
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.settings import apply_settings
from fedmodels.study import parse_roster, parse_study
from server.home import Home, Settings
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import Target, describe, print_json, verdict, wide_console
from simulations.cohorts import TABLE_INPUT, write_cohort

_LOCAL = "127.0.0.1"
_HIDDEN = {1: (495, 495), 4: (995, 995), 40: (3155, 3155)}
"""Hidden layers of a network of about this many megabytes."""
_GOALS = {"retry": 1.2, "recover": 2.5}
_GOAL_MEGABYTES = 4
_START_SECONDS, _ROUND_SECONDS = 120.0, 120.0
_STUDY = (
    """\
[study]
name = "deployment"
task = "binary"
labels = ["healthy", "diseased"]
synthetic = true
[model]
name = "mlp"
[training]
rounds = 3
batch_rate = 0.1
[privacy]
mode = "distributed"
[federation]
hospitals = 3
timeout_seconds = 120
"""
    + TABLE_INPUT
)


@dataclass(frozen=True)
class Row:
    """seconds: median of the rounds after the first one; training: of one hospital's step, noise included."""

    on_dropout: str
    megabytes: float
    seconds: float
    training: float

    @property
    def beyond(self) -> float:
        return self.seconds - self.training


@dataclass(frozen=True)
class Report:
    machine: Machine
    rounds: int
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]
    load_after: float


def deployed_rounds(*, as_json: bool, quick: bool) -> None:
    """Measure and print a table, or JSON."""
    report = run((1,) if quick else tuple(_HIDDEN), 4 if quick else 10)
    if as_json:
        print_json(report)
        return
    from rich.table import Table

    console = wide_console()
    table = Table(title=f"A round of three hospitals on this machine, seconds, medians of {report.rounds - 1}")
    for heading in ("on_dropout", "model, MB", "round", "one hospital's training", "beyond training"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(
            row.on_dropout, f"{row.megabytes:.1f}", f"{row.seconds:.2f}", f"{row.training:.2f}", f"{row.beyond:.2f}"
        )
    console.print(table)
    for target in report.targets:
        console.print(f"  {verdict(target.reached)}: {target.name} {target.goal}, measured {target.measured:.2f}")
    console.print(describe(report.machine, report.load_after))


def run(sizes: tuple[int, ...], rounds: int) -> Report:
    """One deployment for each size and kind of round."""
    machine = this_machine()
    rows = tuple(measure(kind, size, rounds) for size in sizes for kind in _GOALS)
    measured = {row.on_dropout: row.beyond for row in rows if abs(row.megabytes - _GOAL_MEGABYTES) < 0.5}
    targets = tuple(
        Target(f"{kind}, {_GOAL_MEGABYTES} MB, beyond training", f"<= {goal} s", measured[kind], measured[kind] <= goal)
        for kind, goal in _GOALS.items()
        if kind in measured
    )
    return Report(machine, rounds, rows, targets, round(os.getloadavg()[0], 2))


def measure(kind: str, megabytes: int, rounds: int) -> Row:
    hidden = list(_HIDDEN[megabytes])
    settings = (f"training.rounds={rounds}", f"federation.on_dropout={kind}", f"model.sizes={{hidden={hidden}}}")
    with tempfile.TemporaryDirectory(prefix="fedmodels-") as name, ExitStack() as programs:
        folder = Path(name)
        study = folder / "study.toml"
        study.write_text(apply_settings(_STUDY, settings))
        home, sites = _prepare(folder, study)
        programs.enter_context(_program(folder / "link.log", "server", "up", str(home.directory), said="may connect"))
        for site in sites:
            programs.enter_context(
                _program(folder / f"{site.name}.log", "client", "up", str(site), said="connected as")
            )
        programs.enter_context(_program(folder / "run.log", "server", "run", str(home.directory), str(study)))
        seconds = _round_seconds(home, rounds, folder / "run.log")
        parameters = flatten(build_model(parse_study(study.read_text()))).size
        training = _training_seconds(sites[0])
    return Row(kind, 4e-6 * parameters, median(seconds[1:]), training)


def _prepare(folder: Path, study: Path) -> tuple[Home, list[Path]]:
    """A coordinator's directory and three sites that approved the study."""
    address = f"{_LOCAL}:{_free_port()}"
    home = Home.create(folder / "coordinator", Settings("bench", address, _LOCAL, _free_port()))
    sites = []
    for number, binding in enumerate(write_cohort("table", folder / "cohort", 3, 200, 0), 1):
        site = folder / f"hospital-{number}"
        with redirect_stdout(StringIO()):
            init(site, site.name, 150, home.invitation, binding, yes=True)
        home.add_hospital(parse_card(read_text(site / "card.toml")))
        sites.append(site)
    for site in sites:
        SiteFolder(site).approve(study.read_bytes(), home.roster_file.read_bytes())
    return home, sites


@contextmanager
def _program(log: Path, *arguments: str, said: str = "") -> Iterator[None]:
    """A `fedmodels` command in a process of its own, once it has said so; stopped in the end."""
    command = [sys.executable, "-m", "fedmodels.cli", *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - our own command
    try:
        _wait(lambda: said in log.read_text(), _START_SECONDS, log)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _round_seconds(home: Home, rounds: int, log: Path) -> list[float]:
    def lines() -> list[str]:
        return [row for file in home.runs.glob("*/rounds.jsonl") for row in file.read_text().splitlines()]

    _wait(lambda: any(home.runs.glob("*/result.json")), rounds * _ROUND_SECONDS, log)
    return [json.loads(line)["seconds"] for line in lines()]


def _wait(done: Callable[[], bool], seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise RunError("a program did not get ready", where=str(log), fix=log.read_text()[-500:])
        time.sleep(0.1)


def _training_seconds(directory: Path) -> float:
    """One hospital's training step, with clipping and noise, alone on this machine."""
    site = SiteFolder(directory)
    study, roster = site.study, parse_roster((directory / "approved" / "roster.toml").read_text())
    data = load(directory / "data.toml", study).part(TRAIN)
    model = np.asarray(flatten(build_model(study)))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        update_vector(study, roster, site.name, data, plan_for(study), task=Task(1, 3), model=model)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])
