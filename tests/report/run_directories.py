"""Run directories as a run leaves them, written by hand, for the tests of this folder."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedmodels.evaluation.counts import Layout, histogram
from fedmodels.evaluation.noise import Noise
from fedmodels.evaluation.summary import Rule, summarise
from fedmodels.packing import evaluation_layout, evaluation_noise
from fedmodels.study import parse_roster, parse_study

HOSPITALS = ("amsterdam", "basel", "coimbra", "dublin")
STUDY = """
[study]
name = "sepsis_alarm"
task = "{task}"
labels = {labels}
synthetic = {synthetic}

[model]
name = "mlp"

[input]
modality = "table"
columns = [{{ name = "age", high = 100 }}, {{ name = "lactate", high = 30 }}, {{ name = "heart_rate", high = 250 }}]

[training]
rounds = {rounds}
local_steps = {steps}

[privacy]
mode = "{mode}"

[federation]
hospitals = 4

[evaluation]
operating_point = "{rule}"
"""
METRICS = {"n": 1203.0, "accuracy": 0.8412, "auroc": 0.9034, "auprc": 0.7111, "macro_f1": 0.802, "ece": 0.0412,
           "loss": 0.3555}  # fmt: skip
OBSERVERS = {
    "local": "everyone, also if secure aggregation were broken and all other hospitals colluded",
    "distributed": "everyone who sees the model, and the coordinator together with one colluding hospital, given "
    "secure aggregation",
}
EXACT = {name: value * 1.01 for name, value in METRICS.items()}


def write_run(
    run: Path,
    *,
    mode: str = "local",
    rounds: int = 12,
    simulation: bool = False,
    dropouts: tuple[tuple[int, str, str], ...] = (),
    no_evaluation: tuple[tuple[str, str], ...] = (),
    labels: tuple[str, ...] = ("well", "sepsis"),
    rule: Rule = "half",
    sure: float = 1.0,
) -> Path:
    """dropouts: (round, hospital, reason); that hospital is away from then on. no_evaluation: (hospital, reason). sure:
    the temperature that the model would need."""
    run.mkdir(parents=True, exist_ok=True)
    study = STUDY.format(
        mode=mode, rounds=rounds, steps=_steps(mode), labels=json.dumps(labels), synthetic=str(simulation).lower(),
        rule=rule, task="binary" if len(labels) == 2 else "multiclass",
    )  # fmt: skip
    roster = "".join(
        f'[[hospital]]\nname = "{name}"\nidentity_key = "{number:064x}"\ndeclared_size = {100 * number}\n'
        for number, name in enumerate(HOSPITALS, 1)
    )
    lines = [_round(number, mode, dropouts) for number in range(1, rounds + 1)]
    result: dict[str, Any] = {
        "study": "sepsis_alarm",
        "study_hash": parse_study(study).digest.hex(),
        "run_id": "00" * 16,
        "roster_hash": parse_roster(roster).digest.hex(),
        "synthetic": simulation,
        "mode": mode,
        "rounds_completed": rounds,
        "hospitals": list(HOSPITALS),
        "dropouts": [
            *({"round": n, "kind": "train", "hospital": name, "reason": why} for n, name, why in dropouts),
            *({"round": rounds, "kind": "evaluate", "hospital": name, "reason": why} for name, why in no_evaluation),
        ],
        **({"metrics": {}} if no_evaluation else _evaluation(run, study, rule, sure)),
        "privacy": _privacy(mode, rounds),
        "seconds": {"total": 754.0, "training": 700.0, "aggregation": 4.0, "waiting": 50.0},
        "versions": {"fedmodels": "0.1.0", "torch": "2.13.0"},
    }
    if simulation:
        result["simulation"] = {
            "about": "possible in a simulation only",
            "metrics": EXACT,
            "per_hospital": {name: {**EXACT, "n": 300.0} for name in HOSPITALS[:2]} | {"coimbra": {"n": 0.0}},
        }
    (run / "study.toml").write_text(study)
    (run / "roster.toml").write_text(roster)
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "result.json").write_text(json.dumps(result))
    return run


def _evaluation(run: Path, text: str, rule: Rule, sure: float) -> dict[str, Any]:
    """Writes `counts.json`; what it says, with METRICS for what they name."""
    study = parse_study(text)
    layout, noise = evaluation_layout(study), evaluation_noise(study, len(HOSPITALS))
    counts = _counts(layout, noise, sure)
    told = {"study_hash": study.digest.hex(), "hospitals": len(HOSPITALS), "counts": list(counts)}
    (run / "counts.json").write_text(json.dumps(told))
    summary = msgspec.to_builtins(summarise(np.array(counts), layout, rule, 0.9, noise))
    return {**summary, "metrics": summary["metrics"] | METRICS}


@cache
def _counts(layout: Layout, noise: Noise, sure: float) -> tuple[int, ...]:
    rng = np.random.default_rng(0)
    odds = 1.5 * rng.normal(size=(1200, layout.labels))
    chances = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    y = (rng.random((1200, 1)) > chances.cumsum(1)).sum(1).clip(max=layout.labels - 1)
    shown = np.exp(sure * odds) / np.exp(sure * odds).sum(1, keepdims=True)
    counts = histogram(shown, y, np.arange(1200).astype(str), layout)
    return tuple((counts + noise.draw((layout.length,), rng).astype(np.int64)).tolist())


def change_result(run: Path, **changes: Any) -> None:
    """Set keys of `result.json`; those set to None are removed."""
    result = json.loads((run / "result.json").read_text()) | changes
    kept = {key: value for key, value in result.items() if value is not None}
    (run / "result.json").write_text(json.dumps(kept))


def _steps(mode: str) -> int:
    return 1 if mode == "distributed" else 5


def _round(number: int, mode: str, dropouts: tuple[tuple[int, str, str], ...]) -> dict[str, Any]:
    away = {name for first, name, _ in dropouts if first <= number}
    return {
        "round": number,
        "hospitals": [name for name in HOSPITALS if name not in away],
        "loss": 0.7 / number**0.5 if mode == "none" else None,
        "update_norm": 2.5 / number,
        "clipped": 3 if number == 1 and mode != "distributed" else 0,
        "epsilon": 8.0 * (number / 14) ** 0.5 if mode != "none" else None,
        "seconds": 60.0 + number % 3,
    }


def _privacy(mode: str, rounds: int) -> dict[str, Any]:
    common: dict[str, Any] = {"unit": "patient", "adjacency": "add-remove"}
    if mode == "none":
        return {**common, "observer": "nobody: without noise the published model may reveal patients", "delta": None,
                "epsilon": dict.fromkeys(HOSPITALS), "steps": 0}  # fmt: skip
    return {
        **common,
        "observer": OBSERVERS[mode],
        "delta": 1e-5,
        "epsilon": {name: 8.4041 + number / 8 for number, name in enumerate(HOSPITALS)},
        "epsilon_lower": dict.fromkeys(HOSPITALS, 7.3),
        "epsilon_evaluation": 1.0,
        "noise_multiplier": 0.87654321,
        "sampling_rate": 0.1,
        "clip": 1.0,
        "steps": (rounds + 1) * _steps(mode),
    }
