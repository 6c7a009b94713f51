"""`fedmodels audit run` and `colluders`, as an auditor sees them: progress, a table, one sentence."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich import box
from rich.table import Table

from fedmodels.audit.checks import Finding, run_checks
from fedmodels.audit.colluders import View, view
from fedmodels.audit.design import Size, draw_design
from fedmodels.audit.evidence import Evidence, step_weights
from fedmodels.audit.summary import CONFIDENCE, Point, bounds_after, checkpoints
from fedmodels.audit.verdict import verdict
from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.models.registry import expected_parameters
from fedmodels.study import Study
from server.console import progress_bar
from simulations.auditing.campaign import Campaign, audited_plan
from simulations.auditing.plot import draw
from simulations.auditing.threads import one_thread
from simulations.benchmarks.output import wide_console
from simulations.commands import Subject, prepare

_INNER = 100  # canaries in the model's own weights; more would train the model instead of measuring it
_console = wide_console()


def run(subject: Subject, out: Path, canaries: int) -> None:
    """Audit one run; leaves `audit.json`, `bounds.png`, `bounds.svg` and the site directories in `out`. 1 if broken."""
    study, evidence, seconds = _gather(subject, out, canaries)
    with _console.status("bounds and checks"):
        points = bounds_after(evidence, checkpoints(evidence.rounds))
        findings = run_checks(evidence)
    end, delta = points[-1], evidence.plan.delta
    judged = verdict(end.bounds, findings, end.claimed, delta)
    for name in ("bounds.png", "bounds.svg"):
        draw(points, out / name, f"{study.study.name}, mode {study.privacy.mode}, delta {delta:g}")
    about = _about(study, evidence, seconds)
    record = {**about, "claimed": end.claimed, "verdict": asdict(judged), "findings": [asdict(f) for f in findings],
              "points": [asdict(point) for point in points]}  # fmt: skip
    _write(out / "audit.json", record)
    _console.print(_bounds_table(study, end))
    _console.print(_findings_table(findings))
    _console.print(f"Observer: {about['observer']}.")
    _console.print(f"[bold]{judged.said}[/]", highlight=False)
    _console.print(f"{seconds:.0f} s. {out / 'audit.json'}  {out / 'bounds.png'}")
    if judged.conclusion == "broken":
        raise typer.Exit(1)


def colluders(subject: Subject, out: Path, canaries: int, most: int) -> None:
    """Audit one run with 0 to `most` colluding hospitals. 1 where as many as the promise is against learn more."""
    study, evidence, seconds = _gather(subject, out, canaries, most)
    with _console.status("what colluders see"):
        views = [view(evidence, count, CONFIDENCE) for count in range(most + 1)]
    _write(out / "colluders.json", {**_about(study, evidence, seconds), "views": [asdict(v) for v in views]})
    _console.print(_views_table(study, views))
    broken = [v for v in views if v.claimed is not None and v.epsilon > v.claimed]
    if broken:
        _console.print(f"[bold red]Broken[/]: {broken[0].colluders} colluding hospitals learn more than is claimed.")
        raise typer.Exit(1)
    told = "Nobody of whom the study speaks learns more than the ledgers claim"
    beyond = " (more colluders than it is private against do)" if any(v.claimed is None for v in views) else ""
    _console.print(f"[bold]{told}[/]{beyond}. {out / 'colluders.json'}")


def _gather(subject: Subject, out: Path, canaries: int, colluding: int = 0) -> tuple[Study, Evidence, float]:
    """Make the hospitals below `out` and run the study with canaries; also the seconds of the run."""
    with _console.status("preparing the hospitals' data"):
        study, federation = prepare(subject, out, lambda study: _accept(study, colluding))
    size = Size(canaries, _INNER if study.privacy.mode == "distributed" else 0)
    design = draw_design(
        len(federation.sites), size, expected_parameters(study), study.privacy.clip, np.random.default_rng()
    )
    campaign, start = Campaign(federation.sites, design), time.monotonic()
    with progress_bar(_console) as progress, one_thread():
        task = progress.add_task("round", total=study.training.rounds)
        campaign.run(study.training.rounds, lambda number: progress.update(task, completed=number))
    return study, campaign.evidence(), time.monotonic() - start


def _accept(study: Study, colluding: int) -> None:
    """Raise an error for a study that cannot be audited, or not with so many colluders."""
    step_weights(study.training, audited_plan(study))
    hospitals = study.federation.hospitals
    if colluding >= hospitals:
        raise UsageError(f"of {hospitals} hospitals at most {hospitals - 1} can collude", where="--colluders")


def _about(study: Study, evidence: Evidence, seconds: float) -> dict[str, Any]:
    design, plan = evidence.design, evidence.plan
    everyone = "everybody, who sees each hospital's own contribution"
    hospitals = f"{evidence.colluders} colluding hospital{'' if evidence.colluders == 1 else 's'}"
    some = f"the coordinator and {hospitals}, who subtract their own contributions"
    if evidence.threshold is not None:
        some += ", the coordinator lying about who dropped out"
    return {
        "study": study.study.name,
        "study_hash": study.digest.hex(),
        "synthetic": study.study.synthetic,
        "mode": plan.mode,
        "observer": everyone if plan.mode == "local" else some,
        "delta": plan.delta,
        "sampling_rate": plan.sampling_rate,
        "noise_multiplier": plan.noise_multiplier,
        "rounds": evidence.rounds,
        "hospitals": evidence.hospitals,
        "canaries": {"free": design.free, "inner": len(design.owner) - design.free,
                     "inside": int(design.inside.sum())},
        "seconds": seconds,
        "versions": {name: version(name) for name in ("fedmodels", "dp-accounting", "numpy", "scipy", "torch")},
    }  # fmt: skip


def _write(path: Path, record: dict[str, Any]) -> None:
    write_synced(path, json.dumps(record, indent=2).encode() + b"\n")


def _bounds_table(study: Study, end: Point) -> Table:
    title = f"{study.study.name}, mode {study.privacy.mode}: epsilon after {end.steps} steps of {end.rounds} rounds"
    table = Table("", "epsilon", "of claimed", "confidence", "assumes", title=title, box=box.SIMPLE_HEAD)
    for bound in end.bounds:
        table.add_row(f"at least, {bound.name}", f"{bound.epsilon:.3f}", f"{bound.epsilon / end.claimed:.0%}",
                      f"{bound.confidence:.0%}", bound.assumption)  # fmt: skip
    table.add_row("at most, claimed by the ledgers", f"{end.claimed:.3f}", "", "certain", "a correct implementation")
    return table


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table("check", "", "measured", box=box.SIMPLE_HEAD)
    for finding in findings:
        table.add_row(finding.check, "[bold red]failed[/]" if finding.flagged else "passed", finding.said)
    return table


def _views_table(study: Study, views: Sequence[View]) -> Table:
    title = f"{study.study.name}, mode {study.privacy.mode}: with {CONFIDENCE:.0%} confidence"
    table = Table("colluding hospitals", "noise left, at most", "influence, at least", "epsilon, at least",
                  "claimed by the ledgers", title=title, box=box.SIMPLE_HEAD)  # fmt: skip
    for seen in views:
        claimed = "nothing" if seen.claimed is None else f"{seen.claimed:.2f}"
        table.add_row(str(seen.colluders), f"{seen.noise:.3f} C", f"{seen.shift:.3f} C", f"{seen.epsilon:.2f}", claimed)
    return table
