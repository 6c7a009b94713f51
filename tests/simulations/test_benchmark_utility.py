"""The comparison of who adds the noise: every row trains, and the goals are computed as they are said."""

from pathlib import Path

import numpy as np
import pytest
from federations import tiny_text

from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.errors import DataError
from fedmodels.settings import DISTRIBUTED, apply_settings, for_mode
from fedmodels.study import parse_study
from fedmodels.study_template import render
from simulations.benchmarks import problems, utility
from simulations.benchmarks.problems import Case, Problem
from simulations.benchmarks.utility import ALONE, CAUTIOUS, LOCAL, NON_PRIVATE, POOLED, TRUSTING
from simulations.benchmarks.utility import DISTRIBUTED as DISTRIBUTED_ROW
from simulations.benchmarks.workers import run_all


def load(settings: tuple[str, ...], seed: int) -> Case:
    study = parse_study(apply_settings(tiny_text(), [*settings, f"training.seed={seed}", "federation.hospitals=6"]))
    draw = np.random.default_rng(seed)

    def part(hospital: int) -> Dataset:
        y = np.arange(40) % 2
        x = draw.normal(size=(40, feature_count(study.input))).astype(np.float32)
        x[:, 0] += 4.0 * y
        names = np.array([f"{hospital}-{i}" for i in range(40)])
        return Dataset(names, x, y.astype(np.int64), np.where(np.arange(40) < 30, TRAIN, TEST).astype(np.uint8))

    return Case(study, {f"hospital-{i}": part(i) for i in range(6)})


PROBLEM = Problem("tiny", 6, "accuracy", 2, load, allowed_loss={3.0: 0.1})


@pytest.fixture(autouse=True)
def only_the_tiny_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "PROBLEMS", {"tiny": PROBLEM})


def test_every_row_trains_and_scores() -> None:
    found = {job: job.run() for job in utility._jobs(PROBLEM, 1) if job.epsilon in (None, 8.0)}
    assert {job.row for job in found} == {NON_PRIVATE, POOLED, TRUSTING, DISTRIBUTED_ROW, CAUTIOUS, LOCAL, ALONE}
    assert all(0.0 <= score <= 1.0 for score in found.values())
    assert found[utility.Job("tiny", POOLED, 8.0, 0)] > 0.8


def test_goals_are_computed_from_the_means() -> None:
    means = {
        NON_PRIVATE: 0.97, POOLED: 0.95, TRUSTING: 0.943, DISTRIBUTED_ROW: 0.948, CAUTIOUS: 0.93, LOCAL: 0.85,
        ALONE: 0.7,
    }  # fmt: skip
    found = {
        job: means[job.row] + (0.001 if job.seed else -0.001) * (3 if job.row == TRUSTING else 1)
        for job in utility._jobs(PROBLEM, 2)
    }  # fmt: skip
    result = utility._result(PROBLEM, found)
    assert (result.seeds, result.point(POOLED, 3.0).mean) == (2, pytest.approx(0.95))
    assert result.point(POOLED, 3.0).standard_error == pytest.approx(0.001)
    at_3 = {target.name.split(": ", 1)[1]: (target.measured, target.reached) for target in result.targets
            if "epsilon 3" in target.name}  # fmt: skip
    assert at_3["|distributed - pooled| (± 0.0000)"] == (pytest.approx(0.002), True)
    assert at_3["|distributed, none colluding - pooled| (± 0.0020)"] == (pytest.approx(0.007), False)
    assert at_3["part of the gap 0.100 to local closed by distributed"] == (pytest.approx(0.98), True)
    third = "part of the gap 0.100 to local closed by distributed, a third colluding"
    assert at_3[third] == (pytest.approx(0.8), False)
    assert at_3["below pooled without privacy"] == (pytest.approx(0.022), True)


def test_the_constants_that_need_no_tuning_are_the_ones_that_a_new_study_has() -> None:
    text = render("x", "mlp", "mlp", ["a", "b"], "distributed", 4, 8.0)
    assert parse_study(apply_settings(text, for_mode("distributed"))) == parse_study(text)
    assert {setting.split("=")[0] for setting in DISTRIBUTED} >= {"training.rounds", "training.learning_rate"}


def test_digits_are_dealt_out_whole() -> None:
    pytest.importorskip("sklearn")
    case = problems.PROBLEMS["digits"].case(3, "distributed", ())
    rows = [set(part.patients.tolist()) for part in case.parts.values()]
    assert len(rows) == 10
    assert len(set.union(*rows)) == sum(map(len, rows)) == 1797
    assert sum(len(part.part(TEST)) for part in case.parts.values()) == 360


def test_data_that_is_not_there_is_said_by_the_worker_that_misses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDMODELS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"processed\.cleveland\.data: no such file"):
        run_all([utility.Job("heart_disease", POOLED, 3.0, 0)], 1, lambda *_: None)
