"""The directory that a run leaves: study, roster, a line per round, result, model, report."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from fedmodels.dp.accounting import epsilon_bounds
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.models.artifact import Trained, save_model
from fedmodels.models.registry import build_model, division
from fedmodels.models.weights import flatten, unflatten
from fedmodels.report.page import write_report
from fedmodels.report.record import Counts
from fedmodels.study import Roster, Study
from server.records import RoundLine
from server.rounds import Outcome

_BESIDE = {"sites", "cohort"}  # what a simulation makes in the folder before its run
_PACKAGES = ("fedmodels", "flwr", "torch", "opacus", "cryptography", "dp-accounting", "numpy")


class RunDirectory:
    """A run's files. Public, and replaced or appended to so that a crash leaves whole lines and whole files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, study: bytes, roster: bytes) -> "RunDirectory":
        """A new run directory; see `check_new`."""
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        write_synced(path / "study.toml", study)
        write_synced(path / "roster.toml", roster)
        write_synced(path / "rounds.jsonl", b"")
        return cls(path)

    @classmethod
    def reopen(cls, path: Path, line: RoundLine | None) -> "RunDirectory":
        """A run directory whose run was cut off. line: the last finished round, which may not be written yet."""
        if not (path / "rounds.jsonl").exists():
            raise UsageError("there is no run in this folder", where=str(path), fix="name a run directory")
        if (path / "result.json").exists():
            raise UsageError("this run is finished", where=str(path), fix="see its report.html, or begin a new run")
        directory = cls(path)
        written = (path / "rounds.jsonl").read_bytes().splitlines(keepends=True)
        whole = [row for row in written if row.endswith(b"\n")]
        if len(whole) < (line.round if line else 0):
            whole.append(_row(line))
        if whole != written:
            write_synced(path / "rounds.jsonl", b"".join(whole))
        return directory

    @property
    def study(self) -> Path:
        return self.path / "study.toml"

    @property
    def roster(self) -> Path:
        return self.path / "roster.toml"

    def add(self, line: RoundLine) -> None:
        """Append one finished round."""
        with (self.path / "rounds.jsonl").open("ab") as file:
            file.write(_row(line))

    def finish(self, study: Study, roster: Roster, outcome: Outcome) -> dict[str, Any]:
        """Write model, counts, result and report; returns the content of `result.json`."""
        model, layers = build_model(study), division(study)
        unflatten(model, layers.join(outcome.model, layers.own_of(flatten(model))))
        evaluated, content = outcome.evaluated, _result(study, roster, outcome)
        working = evaluated.summary.working(study.evaluation.specificity) if evaluated else None
        save_model(self.path, model, study, working, _trained(study, content))
        if evaluated:
            counts = Counts(study.digest.hex(), evaluated.hospitals, tuple(evaluated.counts.tolist()))
            write_synced(self.path / "counts.json", msgspec.json.encode(counts) + b"\n")
        text = json.dumps(content, indent=2)
        write_synced(self.path / "result.json", text.encode() + b"\n")
        write_report(self.path)
        result: dict[str, Any] = json.loads(text)
        return result


def check_new(path: Path) -> None:
    """Raise `UsageError` unless a run may have this folder for itself, so that nobody's files are lost.

    It is absent, or empty but for the hospitals of a simulation.
    """
    if (path / "rounds.jsonl").exists():
        raise UsageError("there is a run in this folder already", where=str(path), fix="name a new folder")
    if path.exists() and (not path.is_dir() or any(entry.name not in _BESIDE for entry in path.iterdir())):
        raise UsageError("this is not an empty folder", where=str(path), fix="name a new folder for this run")


def _row(line: RoundLine | None) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _result(study: Study, roster: Roster, outcome: Outcome) -> dict[str, Any]:
    seconds = msgspec.to_builtins(outcome.seconds)
    return {
        "study": study.study.name,
        "study_hash": study.digest.hex(),
        "roster_hash": roster.digest.hex(),
        "run_id": outcome.run_id.hex(),
        "synthetic": study.study.synthetic,
        "mode": study.privacy.mode,
        "rounds_completed": study.training.rounds,
        "hospitals": list(roster.sizes),
        "dropouts": msgspec.to_builtins(outcome.dropouts),
        **(msgspec.to_builtins(outcome.evaluated.summary) if outcome.evaluated else {"metrics": {}}),
        "privacy": _privacy(study, outcome.asked),
        "seconds": {"total": sum(seconds.values()), **seconds},
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _trained(study: Study, result: dict[str, Any]) -> Trained:
    """The part of a result that goes with the model wherever it goes."""
    promise = result["privacy"]
    charged = [epsilon for epsilon in promise["epsilon"].values() if epsilon is not None]
    return Trained(
        hospitals=len(result["hospitals"]),
        rounds=result["rounds_completed"],
        mode=result["mode"],
        epsilon=max(charged, default=None),
        delta=promise["delta"],
        observer=promise["observer"],
        metrics=result["metrics"],
        lacks=study.training.personal,
    )


def _privacy(study: Study, asked: dict[str, int]) -> dict[str, Any]:
    """What this run promises to a patient of each hospital, and whom from. What counts over several runs is the
    hospital's own ledger, which this does not know."""
    privacy, plan = study.privacy, plan_for(study)
    promised = plan or privacy
    common: dict[str, Any] = {"scope": "this run only", "unit": promised.unit, "adjacency": promised.adjacency}
    if plan is None:
        return {**common, "observer": study.observer,
                "delta": None, "epsilon": dict.fromkeys(asked), "steps": 0}  # fmt: skip
    return {
        **common,
        "observer": study.observer,
        "delta": plan.delta,
        "epsilon": {name: _epsilon(plan, releases, privacy.evaluation_epsilon) for name, releases in asked.items()},
        "epsilon_lower": {name: epsilon_bounds(plan.event(n), plan.delta).lower for name, n in asked.items()},
        "epsilon_evaluation": privacy.evaluation_epsilon,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "clip": plan.clip,
        "steps": max(asked.values()) * plan.steps_per_release,
    }


def _epsilon(plan: Plan, releases: int, evaluation: float) -> float:
    return plan.epsilon(releases) + evaluation
