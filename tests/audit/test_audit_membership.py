"""`fedmodels audit membership` on the run directory of a small federation on SYNTHETIC tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from federations import run as simulate

from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.errors import DataError, FileError, UsageError
from fedmodels.report.audit_record import read_folder
from simulations.auditing.membership_command import membership
from simulations.auditing.shadows import Patients


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run` and `sites` in it."""
    folder = tmp_path_factory.mktemp("federation")
    simulate(folder, "privacy.mode=none")
    return folder


def bindings(finished: Path) -> list[Path]:
    return sorted((finished / "sites").glob("*/data.toml"))


def test_the_report_is_by_site_and_class_and_warns(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    membership(finished / "run", bindings(finished), 4, out)
    record = json.loads((out / "membership.json").read_text())
    assert read_folder(out).membership
    groups = [row["group"] for row in record["rows"] if row["attack"] == "LiRA"]
    assert groups == ["everyone", *(f"site hospital-0{i}" for i in range(1, 5)), "class healthy", "class diseased"]
    everyone = record["rows"][0]
    assert everyone["members"] + everyone["others"] == 240
    assert 0.3 < everyone["area"] < 0.7  # three rounds of four neurons memorise nothing
    assert "area" not in record["rows"][1]  # too few test patients at one site
    said = capsys.readouterr().out
    assert "no evidence of safety" in " ".join(said.split())
    assert "h1-" not in said + (out / "membership.json").read_text()
    assert (out / "roc.png").read_bytes().startswith(b"\x89PNG")


def test_two_shadow_models_are_for_rmia_alone(finished: Path, tmp_path: Path) -> None:
    membership(finished / "run", bindings(finished), 2, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "membership.json").read_text())
    assert {row["attack"] for row in record["rows"]} == {"RMIA"}


def test_runs_and_data_that_cannot_be_audited_are_refused(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="no such file"):
        membership(finished / "sites", bindings(finished), 4, out)
    with pytest.raises(UsageError, match="cannot be halved"):
        membership(finished / "run", bindings(finished), 5, out)
    with pytest.raises(DataError, match="too few to compare"):
        membership(finished / "run", bindings(finished)[:1], 4, out)
    other = tmp_path / "run"
    shutil.copytree(finished / "run", other)
    study = (other / "study.toml").read_text()
    (other / "study.toml").write_text(study.replace("learning_rate = 0.5", "learning_rate = 0.4", 1))
    with pytest.raises(FileError, match="not of this study"):
        membership(other, bindings(finished), 4, out)
    (other / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        membership(other, bindings(finished), 4, out)
    assert not out.exists()


def test_training_sets_hold_the_chosen_patients_of_every_site() -> None:
    def site(names: list[str], split: list[int]) -> Dataset:
        x = np.arange(len(names), dtype=np.float32)[:, None]
        return Dataset(np.array(names), x, np.zeros(len(names), np.int64), np.array(split, np.uint8))

    patients = Patients.of({"a": site(["q", "p", "q"], [TEST, TRAIN, TEST]), "b": site(["p", "r"], [TRAIN, TRAIN])})
    assert patients.member.tolist() == [True, False, True, True]  # a/p, a/q, b/p, b/r
    sets = patients.training_sets(np.array([False, True, True, False]))
    assert sets["a"].patients.tolist() == ["q", "q"]
    assert sets["a"].split.tolist() == [TRAIN, TRAIN]
    assert sets["b"].patients.tolist() == ["p"]
    assert list(patients.training_sets(np.array([True, False, False, False]))) == ["a"]
