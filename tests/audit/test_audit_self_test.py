"""The audit of whole federations: broken implementations are caught, correct ones are not, and the command says so."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from federations import STUDY, tiny_federation
from test_cli import fedmodels
from typer.testing import CliRunner

from client import training
from fedmodels.audit.checks import CHECKS, run_checks
from fedmodels.audit.design import Size, draw_design
from fedmodels.cli import app
from fedmodels.dp.lattice_noise import LatticeMechanism
from fedmodels.dp.sampling import PoissonSampler
from fedmodels.errors import UsageError
from fedmodels.models.registry import expected_parameters
from fedmodels.report.audit_record import read_folder
from simulations.auditing import commands, self_test, self_test_command
from simulations.auditing.campaign import Campaign
from simulations.auditing.mutants import HONEST, MUTANTS, Mutant
from simulations.auditing.self_test import examine
from simulations.cohorts import write_cohort

CAUGHT_BY = {
    "no noise": "noise",
    "half noise": "step-level epsilon",
    "share sigma/n": "noise",
    "no clip": "shift",
    "shuffled batches": "participation",
    "uncompensated dropout": "noise after dropouts",
    "dropouts believed": "noise",
    "one seed for all": "colluder epsilon",
    "same noise every round": "freshness",
    "divisor from private N": "public constants",
    "steps under-counted": "charges",
    "one canary special-cased": "homogeneity",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_flagged_by_the_check_that_is_meant_for_it(mutant: Mutant) -> None:
    """In every mode that it can happen in."""
    row = examine(mutant)
    for mode in mutant.modes:
        names = {finding.check for finding in row.findings[mode] if finding.flagged}
        assert CAUGHT_BY[mutant.name] in names, mode


def test_mutants_leave_nothing_behind() -> None:
    for mutant in MUTANTS:
        with mutant.applied():
            pass
    assert training.PoissonSampler is PoissonSampler
    assert isinstance(LatticeMechanism.__dict__["share_sigma"], property)
    assert LatticeMechanism.share.__module__ == "fedmodels.dp.lattice_noise"


def test_the_correct_implementation_passes() -> None:
    """A run is flagged with probability 0.01 at most, two of four with one in 1,700."""
    assert sum(bool(examine(HONEST).flagged_by) for _ in range(4)) <= 1


RECOVER = ("privacy.mode=distributed", "training.local_steps=1", "federation.on_dropout=recover")


@pytest.mark.parametrize("settings", [
    (*RECOVER, "privacy.max_colluding=0"),
    ("privacy.mode=local", "training.local_steps=3", "training.momentum=0.5"),
])  # fmt: skip
def test_other_kinds_of_runs_are_audited_as_well(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Recovering rounds, where lies about dropouts leave 2 * 3 - 4 = 2 of four shares, and several steps."""
    federation = tiny_federation(tmp_path, "training.rounds=6", *settings)
    study = Campaign(federation.sites, None).study
    design = draw_design(4, Size(1000, 0), expected_parameters(study), study.privacy.clip, np.random.default_rng())
    campaign = Campaign(federation.sites, design)
    campaign.run(6)
    evidence = campaign.evidence()
    assert {f.check for f in run_checks(evidence, 1e-4) if f.flagged} == set()
    still = evidence.exposure == 0.0
    noise = float(evidence.traces(evidence.colluders)[still].std())
    assert noise == pytest.approx(evidence.plan.noise_multiplier, rel=0.06)
    assert evidence.epsilon(3) < evidence.epsilon() <= study.privacy.epsilon


def test_a_run_without_canaries_has_no_evidence_and_one_without_privacy_no_audit(tmp_path: Path) -> None:
    campaign = Campaign(tiny_federation(tmp_path / "a").sites, None)
    campaign.run(1)
    with pytest.raises(UsageError, match="without canaries"):
        campaign.evidence()
    with pytest.raises(UsageError, match="promises nothing"):
        Campaign(tiny_federation(tmp_path / "b", "privacy.mode=none").sites, None)


# --- the commands ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit")
    write_cohort("table", path / "cohort", 4, 60, 0)
    (path / "study.toml").write_text(STUDY)
    return path


def audit(command: str, folder: Path, out: str, *arguments: str) -> tuple[int, str, str]:
    sites = [part for i in range(1, 5) for part in ("--sites", f"cohort/hospital-{i:02d}")]
    done = fedmodels("audit", command, "study.toml", *sites, "--out", out, *arguments, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def test_an_audit_prints_bounds_checks_and_a_sentence_and_leaves_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks are made so strict that they fail by chance once in a million runs."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(commands, "run_checks", lambda evidence: run_checks(evidence, 1e-6))
    sites = [part for i in range(1, 5) for part in ("--sites", f"cohort/hospital-{i:02d}")]
    arguments = [*sites, "--out", "a", "--canaries", "2000", "--mode", "distributed", "--set", "training.rounds=15"]
    done = CliRunner().invoke(app, ["audit", "run", "study.toml", *arguments])
    assert done.exit_code == 0, done.output
    said = done.output
    for part in (
        "Steinke et al. 2023",
        "f-DP",
        "GDP trajectory",
        "step level",
        "homogeneity",
        "Consistent: the ledger",
    ):
        assert part in said
    record = json.loads((folder / "a/audit.json").read_text())
    bounds = {bound["name"]: bound["epsilon"] for bound in record["points"][-1]["bounds"]}
    assert 0.5 * record["claimed"] < bounds["step level"] < record["claimed"] < 8.0
    assert record["verdict"]["conclusion"] == "consistent"
    assert not any(finding["flagged"] for finding in record["findings"])
    assert read_folder(folder / "a").audit  # by the page that joins the results
    assert (folder / "a/bounds.png").stat().st_size > 10_000
    assert (folder / "a/bounds.svg").read_text().count("<svg") == 1
    assert (folder / "a/sites/hospital-01/ledger.sqlite").exists()


def test_colluders_are_listed_up_to_the_number_asked_for(folder: Path) -> None:
    code, said, error = audit("colluders", folder, "c", "-c", "2", "--canaries", "1000", "--mode", "distributed",
                              "--set", "training.rounds=15")  # fmt: skip
    assert code == 0, error
    views = json.loads((folder / "c/colluders.json").read_text())["views"]
    assert read_folder(folder / "c").colluders
    assert [view["colluders"] for view in views] == [0, 1, 2]
    assert views[0]["noise"] > views[1]["noise"] > views[2]["noise"]
    assert [view["claimed"] is None for view in views] == [False, False, True]
    assert "Nobody of whom the study speaks" in said


@pytest.mark.parametrize(
    ("command", "arguments", "code", "said"),
    [
        ("run", ("--mode", "none"), 2, "promises nothing"),
        ("colluders", ("-c", "4"), 2, "at most 3 can collude"),
        ("run", ("--canaries", "20"), 2, "canaries"),
        ("run", ("--set", "training.optimiser=adam"), 1, "Adam"),
    ],
)
def test_wrong_use_is_told_without_a_traceback(
    folder: Path, command: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, _, error = audit(command, folder, f"wrong-{len(said)}", *arguments)
    assert found == code
    assert said in error
    assert "Traceback" not in error
    assert not (folder / f"wrong-{len(said)}").exists()


def test_the_self_test_prints_which_check_flags_which_mutant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a mutant, and with one that breaks nothing, which is missed. Chance is nearly ruled out, see above."""
    monkeypatch.setattr(self_test, "FAMILY_WISE_ERROR", 1e-6)
    found = next(mutant for mutant in MUTANTS if mutant.name == "dropouts believed")
    harmless = replace(HONEST, name="harmless", modes=("local",))
    monkeypatch.setattr(self_test_command, "MUTANTS", (found,))
    self_test_command.self_test(1, tmp_path / "kept", as_json=True)
    printed = capsys.readouterr().out
    told = json.loads(printed)
    assert json.loads((tmp_path / "kept/self-test.json").read_text()) == told
    assert read_folder(tmp_path).self_test
    assert told["mutants"][0]["mutant"] == "dropouts believed"
    assert "noise" in told["mutants"][0]["flagged_by"]
    findings = told["mutants"][0]["findings"]["recover"]
    assert [finding["check"] for finding in findings] == told["checks"] == list(CHECKS)
    assert (told["honest_runs"], told["false_alarms"], told["passed"]) == (1, 0, True)
    monkeypatch.setattr(self_test_command, "MUTANTS", (found, harmless))
    with pytest.raises(typer.Exit) as ended:
        self_test_command.self_test(1, None, as_json=False)
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert "Missed: harmless" in said
    lines = {line.strip().split("  ")[0]: line.split() for line in said.splitlines()}
    assert lines["dropouts believed"][2] == "x"
    assert lines["honest"][1:15] == lines["harmless"][1:15] == ["."] * 14
    assert max(map(len, said.splitlines())) <= 120


def test_a_broken_implementation_ends_the_audit_with_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with half of the noise."""
    monkeypatch.chdir(folder)
    settings = ("privacy.mode=distributed", "training.local_steps=1", "training.rounds=10")
    sites = [f"cohort/hospital-{i:02d}" for i in range(1, 5)]
    subject = commands.Subject("study.toml", sites, None, "iid", settings)
    broken = next(mutant for mutant in MUTANTS if mutant.name == "half noise")
    for command in (
        lambda: commands.run(subject, folder / "broken", 1000),
        lambda: commands.colluders(subject, folder / "broken-too", 1000, 1),
    ):
        with broken.applied(), pytest.raises(typer.Exit) as ended:
            command()
        assert ended.value.exit_code == 1
    record = json.loads((folder / "broken/audit.json").read_text())
    assert record["verdict"]["conclusion"] == "broken"
    assert record["points"][-1]["bounds"][-1]["epsilon"] > record["claimed"]
