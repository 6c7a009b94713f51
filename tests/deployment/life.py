"""A consortium of three hospitals as its people would set it up, with real commands in processes that can be killed.

    with Consortium(folder, "federation.on_dropout=recover") as consortium:
        consortium.up()
        consortium.run()                # the coordinator's study, in the background
        consortium.coordinator.wait(60)

Keys, cards, invitation, roster and approvals go the way that people take, through the command line. A hospital that is
killed is started again after a moment, as systemd would do it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from federations import tiny_text
from harness import LOCAL, ROOT, free_port, wait_until
from typer.testing import CliRunner

from fedmodels.cli import app
from simulations.cohorts import write_cohort

MORTAL, AUDIT = (Path(__file__).parent / name for name in ("mortal.py", "audit"))
HOSPITALS = ("hospital-01", "hospital-02", "hospital-03")


def command(*arguments: str) -> str:
    """Run a short command in this process; what it printed."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


class Program:
    """A `fedmodels` command in a process of its own; `log` has what it printed."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.points, self.log = folder / f"{name}.points", folder / f"{name}.log"
        self.points.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{AUDIT}{os.pathsep}{ROOT}",
            "FEDMODELS_AUDIT": str(folder / "strangers"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(MORTAL), str(self.points), *arguments], cwd=ROOT, env=environment,
                stdout=output, stderr=output,
            )  # fmt: skip

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Its exit code."""
        return self.process.wait(seconds)


class Hospital:
    """A hospital's node under a supervisor that starts it again when it was killed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.site, self._folder = name, folder / name, folder
        self.deaths = 0
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def dies_at(self, point: str, nth: int) -> None:
        points = self._folder / f"{self.name}.points"
        points.mkdir(exist_ok=True)
        (points / point).write_text(str(nth))

    def start(self) -> None:
        self._wanted.set()
        self.program = self._start()
        self._thread.start()

    def tell_to_stop(self) -> None:
        self._wanted.clear()
        if self.program.process.poll() is None:
            self.program.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.tell_to_stop()
        try:
            self.program.process.wait(60)
        except subprocess.TimeoutExpired:
            self.program.kill()
            raise

    def text(self) -> str:
        return self.program.text()

    def _start(self) -> Program:
        return Program(self._folder, self.name, "client", "up", str(self.site))

    def _supervise(self) -> None:
        while self._wanted.is_set():
            if self.program.process.poll() == -signal.SIGKILL:
                self.deaths += 1
                time.sleep(0.5)
                if self._wanted.is_set():
                    self.program = self._start()
            time.sleep(0.1)

    @property
    def errors(self) -> str:
        path = self.site / "errors.log"
        return path.read_text() if path.exists() else ""

    def ledger(self) -> list[dict[str, Any]]:
        """The rows of its ledger, after `client ledger verify` found them whole."""
        from client.site import Site

        command("client", "ledger", "verify", str(self.site))
        command("client", "log", "verify", str(self.site))
        return [{"kind": c.kind, "round": c.round, "session": c.session} for c in Site(self.site).ledger.charges()]


class Consortium:
    """Coordinator and hospitals in one folder. settings: of the study, as `--set` takes them."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder, self.home, self.study = folder, folder / "coordinator", folder / "study.toml"
        self.strangers = folder / "strangers"  # whom any of the processes talked to besides this machine
        self.strangers.touch()
        self.study.write_text(tiny_text("federation.hospitals=3", *settings))
        self.port = free_port()
        command("server", "init", str(self.home), "--name", "north", "--address", f"{LOCAL}:{self.port}",
                "--listen", LOCAL, "--internal-port", str(free_port()))  # fmt: skip
        bindings = write_cohort("table", folder / "cohort", 3, 200, 0)
        self.hospitals = [Hospital(folder, name) for name in HOSPITALS]
        for hospital, binding in zip(self.hospitals, bindings, strict=True):
            command("client", "init", str(hospital.site), "--name", hospital.name, "--size", "150", "--yes",
                    "--invitation", str(self.home / "invitation.toml"), "--data", str(binding))  # fmt: skip
        cards = [str(hospital.site / "card.toml") for hospital in self.hospitals]
        command("server", "roster", "add", str(self.home), *cards)
        for hospital in self.hospitals:
            self.approve(hospital)

    def approve(self, hospital: Hospital) -> None:
        command("client", "approve", str(hospital.site), str(self.study), str(self.home / "roster.toml"), "--yes")

    def __enter__(self) -> "Consortium":
        return self

    def __exit__(self, *_: object) -> None:
        running = [hospital for hospital in self.hospitals if hospital._wanted.is_set()]
        for hospital in running:
            hospital.tell_to_stop()
        for name in ("link", "coordinator"):
            program = getattr(self, name, None)
            if program and program.process.poll() is None:
                program.kill()
        for hospital in running:
            hospital.stop()

    def up(self) -> None:
        """Start the link and all hospitals, and wait until they are connected."""
        self.start_link()
        for hospital in self.hospitals:
            hospital.start()
        for hospital in self.hospitals:
            wait_until(lambda h=hospital: "connected" in h.text(), 60, hospital.text)

    def start_link(self) -> None:
        started = 1 + (self.link.text().count("may connect") if hasattr(self, "link") else 0)
        self.link = Program(self.folder, "link", "server", "up", str(self.home))
        wait_until(lambda: self.link.text().count("may connect") >= started, 60, self.link.text)

    def run(self) -> None:
        self.coordinator = Program(self.folder, "coordinator", "server", "run", str(self.home), str(self.study))

    def resume(self) -> None:
        self.coordinator = Program(self.folder, "coordinator", "server", "resume", str(self.home))

    @property
    def directory(self) -> Path:
        """The run directory."""
        (directory,) = (self.home / "runs").iterdir()
        return directory

    def rounds(self) -> list[dict[str, Any]]:
        files = list((self.home / "runs").glob("*/rounds.jsonl"))
        return [json.loads(row) for row in files[0].read_text().splitlines()] if files else []

    def wait_for_round(self, number: int, seconds: float = 60.0) -> None:
        wait_until(lambda: len(self.rounds()) >= number, seconds, lambda: self.trouble())

    def finish(self, seconds: float = 120.0) -> dict[str, Any]:
        """The content of `result.json` once the run is over."""
        assert self.coordinator.wait(seconds) == 0, self.trouble()
        result: dict[str, Any] = json.loads((self.directory / "result.json").read_text())
        return result

    def trouble(self) -> str:
        logs = [self.coordinator.log, *(h.program.log for h in self.hospitals), self.folder / "link.log"]
        tails = [f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs if log.exists()]
        return "\n".join([*tails, *(f"== {h.name} errors\n{h.errors[-1500:]}" for h in self.hospitals)])
