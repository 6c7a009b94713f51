"""Whole simulations as a user runs them: repeatable without noise, alike on both backends, told in one table."""

import json
from pathlib import Path

import pytest
from federations import DISTRIBUTED, STUDY
from safetensors.numpy import load_file

from client.ledger import epsilon_of
from client.site import Site
from fedmodels.errors import UsageError
from fedmodels.study import parse_study
from simulations.cohorts import write_cohort
from simulations.commands import Conditions, retries_for, simulate

pytestmark = pytest.mark.usefixtures("cohort")


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_cohort("table", tmp_path / "cohort", 4, 60, 0)
    Path("study.toml").write_text(STUDY)
    return tmp_path


SITES = [f"cohort/hospital-{i:02d}" for i in range(1, 5)]


def run(out: str, *settings: str, backend: str = "local", drop: float = 0.0, sites: list[str] = SITES) -> dict:
    simulate("study.toml", Path(out), sites, None, Conditions(backend=backend, drop=drop), settings)
    return json.loads(Path(out, "result.json").read_text())


def weights(out: str) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in load_file(Path(out, "model.safetensors")).items()}


def test_a_run_directory_has_everything_that_is_promised() -> None:
    result = run("a")
    names = {p.name for p in Path("a").iterdir()}
    expected = {"study.toml", "roster.toml", "rounds.jsonl", "result.json", "model.safetensors", "model.json"}
    assert names >= expected | {"report.html", "sites"}
    assert len(Path("a/rounds.jsonl").read_text().splitlines()) == result["rounds_completed"] == 3
    keys = {"study_hash", "mode", "rounds_completed", "hospitals", "dropouts", "metrics", "privacy", "seconds"}
    assert result.keys() >= keys | {"versions"}
    assert result["privacy"].keys() >= {"unit", "adjacency", "delta", "observer", "epsilon", "steps"}
    assert result["seconds"].keys() >= {"total", "training", "aggregation", "waiting"}
    assert result["synthetic"] is True
    assert max(result["privacy"]["epsilon"].values()) <= 9.0
    card = json.loads(Path("a/model.json").read_text())["trained"]
    assert (card["hospitals"], card["rounds"], card["mode"]) == (4, 3, "local")
    assert card["epsilon"] == max(result["privacy"]["epsilon"].values())
    assert card["metrics"] == result["metrics"]


def test_without_noise_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(out, "privacy.mode=none", f"training.seed={seed}")
    assert weights("a") == weights("b") != weights("c")


def test_noise_is_not_repeated_by_the_same_seed() -> None:
    for out in ("a", "b"):
        run(out, "training.seed=1")
    assert weights("a") != weights("b")


def test_ray_and_in_process_runs_agree() -> None:
    results = [run(backend, "privacy.mode=none", backend=backend) for backend in ("local", "ray")]
    assert weights("local") == weights("ray")
    assert results[0]["metrics"] == results[1]["metrics"]


def test_metrics_from_secure_counts_agree_with_exact_ones_without_noise() -> None:
    result = run("a", "privacy.mode=none")
    for name, value in result["simulation"]["metrics"].items():
        tolerance = {"auroc": 0.02, "auprc": 0.02, "ece": 0.02, "loss": 0.02}.get(name, 1e-9)
        assert result["metrics"][name] == pytest.approx(value, abs=tolerance), name


def test_pooled_data_are_divided_among_a_number_of_hospitals() -> None:
    simulate("study.toml", Path("a"), ["3"], Path("cohort/hospital-01/data.toml"), Conditions("dirichlet:5"), [])
    result = json.loads(Path("a/result.json").read_text())
    assert result["hospitals"] == ["hospital-1", "hospital-2", "hospital-3"]
    lists = [Path("a/sites", name, "patients.txt").read_text().split() for name in result["hospitals"]]
    assert sum(map(len, lists)) == len({p for names in lists for p in names}) == 60


@pytest.mark.parametrize("on_dropout", ["retry", "recover"])
@pytest.mark.parametrize("mode", [("training.local_steps=2",), DISTRIBUTED])
def test_a_study_finishes_though_hospitals_drop_out_at_every_stage(on_dropout: str, mode: tuple[str, ...]) -> None:
    settings = [f"federation.on_dropout={on_dropout}", "training.rounds=6", "privacy.max_colluding=0", *mode]
    result = run("a", *settings, drop=0.2)
    assert result["rounds_completed"] == 6
    assert len(result["dropouts"]) > 2
    for name in result["hospitals"]:
        site = Site(Path("a/sites", name))
        own, _ = epsilon_of(site.ledger.charges(), site.study.digest)
        assert own <= result["privacy"]["epsilon"][name] + 1e-9


def test_a_recover_round_with_dropouts_is_the_sum_of_the_survivors() -> None:
    """Without noise, against the same study over exactly those hospitals' weights: the model is finite and moves."""
    result = run("a", "federation.on_dropout=recover", "privacy.max_colluding=0", "training.rounds=6", drop=0.15)
    lines = [json.loads(line) for line in Path("a/rounds.jsonl").read_text().splitlines()]
    assert min(len(line["hospitals"]) for line in lines) == 3
    assert max(line["update_norm"] for line in lines) < 10
    assert result["rounds_completed"] == 6


def test_retries_allow_for_dropouts() -> None:
    study = parse_study(STUDY)
    assert retries_for(study, 0.0) == 0
    assert retries_for(study, 0.2) > 3 * (1 / 0.8**4 - 1)


def test_every_hospitals_ledger_and_log_agree_with_the_result() -> None:
    result = run("a")
    for name in result["hospitals"]:
        site = Site(Path("a/sites", name))
        log = [json.loads(line) for line in (site.directory / "log.jsonl").read_text().splitlines()]
        assert [line["kind"] for line in log] == ["setup", "train", "train", "train", "evaluate"]
        assert log[-1]["epsilon"] == pytest.approx(result["privacy"]["epsilon"][name], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "sites", "data", "backend", "says"),
    [
        ("nothing", [], None, "local", "bundled studies"),
        ("study.toml", [], None, "local", "no data for this study"),
        ("study.toml", ["nowhere"], None, "local", "no data binding"),
        ("study.toml", ["0"], None, "local", "at least one"),
        ("study.toml", SITES, None, "spark", "unknown backend"),
        ("study.toml", ["2"], Path("cohort/hospital-01/data.toml"), "local", "min_contributors"),
        ("study.toml", ["4"], Path("nowhere.toml"), "local", "no such file"),
        ("heart_disease", ["3"], None, "local", "natural hospitals"),
    ],
)
def test_a_wrong_call_says_what_to_do(name: str, sites: list[str], data: Path | None, backend: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        simulate(name, Path("a"), sites, data, Conditions(backend=backend), [])


def test_a_folder_with_something_in_it_is_never_written_to() -> None:
    with pytest.raises(UsageError, match="not empty"):
        run("cohort")
