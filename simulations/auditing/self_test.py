"""Proof on demand that the audit would catch a broken implementation, and leaves a correct one alone.

A small SYNTHETIC federation is run with canaries in both privacy modes, in `distributed` with either kind of secure
sum, once as it is and once for each mutant; all named checks look at what was found. A dropout is part of the run. In
`recover` rounds the coordinator opens the smallest sums that lies about dropouts can open.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmodels.audit.checks import FAMILY_WISE_ERROR, Finding, run_checks
from fedmodels.audit.design import Size, draw_design
from fedmodels.audit.evidence import Evidence
from fedmodels.models.registry import expected_parameters
from fedmodels.settings import apply_settings
from fedmodels.study import parse_study
from simulations.auditing.campaign import Campaign
from simulations.auditing.mutants import Mutant
from simulations.cohorts import TABLE_INPUT, write_cohort
from simulations.federation import build_federation, natural

MODES = ("distributed", "local", "recover")
_PATIENTS = 60
_SIZE = Size(free=1000, inner=40)
_STUDY = (
    """\
[study]
name = "self-test"
task = "binary"
labels = ["healthy", "diseased"]
synthetic = true
[model]
name = "mlp"
sizes = { hidden = [4] }
[training]
rounds = 16
batch_rate = 0.2
learning_rate = 0.5
[privacy]
mode = "distributed"
[federation]
hospitals = 4
"""
    + TABLE_INPUT
)
_OF_MODE = {
    "distributed": (),
    "local": ("privacy.mode=local", "training.rounds=8", "training.local_steps=2"),
    "recover": ("federation.on_dropout=recover", "federation.hospitals=5", "federation.threshold=4"),
}
_ROUNDS_BEFORE_THE_DROPOUT = {"distributed": 12, "local": 6, "recover": 12}


@dataclass(frozen=True)
class Row:
    """One implementation. findings: of every check, by the kind of run (`MODES`)."""

    mutant: Mutant
    findings: dict[str, list[Finding]]

    @property
    def flagged_by(self) -> tuple[str, ...]:
        """The names of the checks that flagged it in any mode, in their order."""
        flagged = [finding.check for findings in self.findings.values() for finding in findings if finding.flagged]
        return tuple(dict.fromkeys(flagged))


def examine(mutant: Mutant) -> Row:
    """Run the federation with one implementation, and all checks on it, in each mode that it can happen in."""
    findings = {}
    for mode in mutant.modes:
        with mutant.applied():
            evidence = gather(mode)
        findings[mode] = run_checks(evidence, FAMILY_WISE_ERROR / len(MODES))
    return Row(mutant, findings)


def gather(mode: str) -> Evidence:
    """The evidence of one small run, in one of `MODES`, with a dropout near its end."""
    text = apply_settings(_STUDY, _OF_MODE[mode])
    study = parse_study(text)
    with _scratch() as folder:
        hospitals = natural(write_cohort("table", folder / "cohort", study.federation.hospitals, _PATIENTS, 0))
        federation = build_federation(study, text.encode(), hospitals, folder)
        design = draw_design(
            len(hospitals), _SIZE, expected_parameters(study), study.privacy.clip, np.random.default_rng()
        )
        campaign = Campaign(federation.sites, design)
        last = _ROUNDS_BEFORE_THE_DROPOUT[mode]
        campaign.run(study.training.rounds, absent=lambda number: (len(hospitals) - 1,) if number > last else ())
        return campaign.evidence()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for site directories that are thrown away, in memory where there is such a place: ledgers sync often."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder in it has a random name and is private
    with tempfile.TemporaryDirectory(prefix="fedmodels-audit-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
