"""The command line as a person types it: results, exit codes, no traceback for a user's mistake."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from federations import STUDY

from simulations.cohorts import write_cohort


def fedmodels(*arguments: str, cwd: Path, ask: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedmodels.cli", *arguments],
        cwd=cwd, input=ask, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    path = tmp_path_factory.mktemp("cli")
    write_cohort("table", path / "cohort", 4, 60, 0)
    (path / "study.toml").write_text(STUDY)
    sites = [part for i in range(1, 5) for part in ("--sites", f"cohort/hospital-{i:02d}")]
    done = fedmodels("simulate", "study.toml", *sites, "--out", "run", "--set", "privacy.epsilon=3", cwd=path)
    assert done.returncode == 0, done.stderr
    for said in ("tiny", "SYNTHETIC", "exact, pooled", "hospital-04", "epsilon", "run/report.html"):
        assert said in done.stdout
    return path


def test_evaluate_prints_the_metrics_as_json(folder: Path) -> None:
    done = fedmodels("evaluate", "run", "--data", "cohort/hospital-01/data.toml", "--json", cwd=folder)
    metrics = json.loads(done.stdout)["metrics"]
    result = json.loads((folder / "run/result.json").read_text())
    assert metrics == pytest.approx(result["simulation"]["per_hospital"]["hospital-01"])


def test_predict_writes_a_probability_of_every_label_for_each_record(folder: Path) -> None:
    done = fedmodels("predict", "run", "--data", "cohort/hospital-02/data.toml", "--out", "p.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    for row in rows:
        assert float(row["p(healthy)"]) + float(row["p(diseased)"]) == pytest.approx(1.0, abs=1e-5)
        assert (row["predicted"] == "diseased") == (float(row["p(diseased)"]) > 0.5)


@pytest.fixture(scope="module")
def new_patients(folder: Path) -> str:
    """A binding of patients without labels: the records of hospital-02, the column of labels cut out."""
    with (folder / "cohort/hospital-02/table.csv").open(newline="") as file:
        rows = [{key: cell for key, cell in row.items() if key != "label"} for row in csv.DictReader(file)]
    with (folder / "new.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "new.toml").write_text('kind = "table"\npath = "new.csv"\n[columns]\npatient = "patient"\n')
    return "new.toml"


def test_predict_says_of_patients_without_labels_what_it_says_of_them_with_labels(
    folder: Path, new_patients: str
) -> None:
    new = fedmodels("predict", "run", "--data", new_patients, cwd=folder)
    assert new.returncode == 0, new.stderr
    assert len(new.stdout.splitlines()) == 61
    assert new.stdout == fedmodels("predict", "run", "--data", "cohort/hospital-02/data.toml", cwd=folder).stdout


def test_predict_says_what_was_noted_about_the_data_beside_its_answers(folder: Path, new_patients: str) -> None:
    rows = (folder / "new.csv").read_text().replace("never", "jamais¹")
    (folder / "latin.csv").write_bytes(rows.encode("latin-1"))
    (folder / "latin.toml").write_text((folder / new_patients).read_text().replace("new.csv", "latin.csv"))
    done = fedmodels("predict", "run", "--data", "latin.toml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "note: a file is not UTF-8 and was read as latin-1" in " ".join(done.stderr.split())
    assert len(done.stdout.splitlines()) == 61


@pytest.mark.parametrize(
    ("command", "split", "code", "says"),
    [
        ("evaluate", "test", 1, "new.toml: the records have no labels\n  -> name their column as `label` under"),
        ("evaluate", "all", 1, "no labels"),
        ("predict", "test", 2, "--split test: the records have no labels, so there is no test part of them"),
        ("predict", "train", 2, "no train part"),
    ],
)
def test_what_predict_and_evaluate_cannot_do_without_labels_they_say(
    folder: Path, new_patients: str, command: str, split: str, code: int, says: str
) -> None:
    done = fedmodels(command, "run", "--data", new_patients, "--split", split, cwd=folder)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["evaluate", "nowhere", "--data", "cohort/hospital-01/data.toml"], 2, "no such file"),
        (["evaluate", "run", "--data", "nowhere.toml"], 2, "no such file"),
        (["evaluate", "run", "--data", "study.toml"], 2, "study.toml"),
        (["evaluate", "run", "--data", "cohort/hospital-01/data.toml", "--split", "x"], 2, "unknown split"),
        (["predict", "run", "--data", "cohort/hospital-01/data.toml", "--out", "study.toml"], 2, "exists already"),
        (["simulate", "study.toml", "--out", "run"], 2, "not empty"),
        (["simulate", "nothing", "--out", "x"], 2, "no study"),
        (["study", "check", "cohort/hospital-01/data.toml"], 2, "unknown key"),
        (["study", "new", "study.toml"], 2, "exists already"),
        (["study", "new", "x.toml", "--name", "x", "--model", "cnm"], 2, "no model"),
        (["report", "cohort"], 2, "cohort"),
        (["data", "fetch", "nothing"], 2, "choose one of"),
        (["data", "synthetic", "sound", "x"], 2, "unknown kind"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_a_users_mistake_gets_a_sentence_and_its_exit_code(
    folder: Path, arguments: list[str], code: int, says: str
) -> None:
    done = fedmodels(*arguments, cwd=folder)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("model", ["cnn", "article-cnn", "gru", "article-lstm", "text-gru", "article-text-lstm", "mlp"])
def test_a_new_study_is_valid_and_check_explains_it(tmp_path: Path, model: str) -> None:
    flags = ["--name", "x", "--model", model, "--labels", "a,b", "--mode", "local", "--hospitals", "4"]
    assert fedmodels("study", "new", "s.toml", *flags, cwd=tmp_path).returncode == 0
    done = fedmodels("study", "check", "s.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert model in done.stdout
    assert "any one patient's whole record" in " ".join(done.stdout.replace("│", " ").split())


def test_a_new_study_asks_for_what_is_not_given(tmp_path: Path) -> None:
    done = fedmodels("study", "new", cwd=tmp_path, ask="x\nmlp\n\nnone\n5\n")
    assert done.returncode == 0, done.stderr
    assert "hospitals = 5" in (tmp_path / "study.toml").read_text()
    checked = fedmodels("study", "check", "study.toml", cwd=tmp_path)
    assert "infinite" in checked.stdout


def test_the_bundled_studies_are_valid(tmp_path: Path) -> None:
    import simulations

    files = sorted(Path(next(iter(simulations.__path__)), "studies").glob("*/study.toml"))
    assert len(files) >= 7
    for file in files:
        done = fedmodels("study", "check", str(file), cwd=tmp_path)
        assert done.returncode == 0, f"{file}: {done.stderr}"
