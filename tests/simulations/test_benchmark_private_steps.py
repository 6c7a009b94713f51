"""`fedmodels bench dp`: its structure, that every contender takes steps, and what it leaves out."""

import json
from dataclasses import replace

import pytest
from msgspec import structs

from fedmodels.cli import bench_dp
from simulations.benchmarks import private_steps as bench
from simulations.benchmarks.steps.cases import cases
from simulations.benchmarks.steps.contenders import CONTENDERS, OPACUS, OURS, STOCK

SMALL_SIZES = {
    "cnn": {"channels": (2,), "dense": 2},
    "lstm": {"hidden": 3, "dense": 2},
    "gru": {"hidden": 3, "dense": 2},
}
SMALL = [
    replace(
        case,
        batch=2,
        architecture=replace(case.architecture, sizes=structs.replace(case.architecture.sizes, **SMALL_SIZES[family])),
    )
    for case in cases()
    if case.small and (family := case.architecture.family)
]


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore")
def test_every_contender_takes_steps_of_a_small_model(contender, case):
    step = contender.prepare(case)
    for _ in range(2):
        step()


def test_every_case_has_a_goal_and_opacus_does_not_run_out_of_memory():
    assert {case.name for case in cases()} == set(bench.GOALS)
    hooks = OPACUS[0]
    wide = next(case for case in cases() if case.name == "article CNN 224")
    assert "GB" in bench._left_out(replace(hooks, held=1000), wide)
    assert bench._left_out(OURS, wide) == ""


def test_goals_are_compared_with_the_best_of_opacus_and_unmeasured_ones_are_not_reached():
    name = "GRU 48"
    times = {STOCK.name: 10.0, OURS.name: 9.0, OPACUS[0].name: 50.0, OPACUS[1].name: 40.0, OPACUS[2].name: 80.0}
    rows = [bench.Row(name, who, ms, ms / 10.0, 1, 1.7) for who, ms in times.items()]
    found = {target.name: target for target in bench._targets(rows)}
    assert found[f"{name}: step, times the plain one"].reached is True
    assert found[f"{name}: times as fast as Opacus's best mode"].measured == pytest.approx(40 / 9)
    assert found[f"{name}: peak memory, times the plain one"].reached is False
    assert found["CNN 64: step, times the plain one"].reached is None


@pytest.mark.filterwarnings("ignore")
def test_a_quick_report_has_every_contender_of_the_small_cases(monkeypatch, capsys):
    """The models are small and no memory is measured; the test below does that for one of them."""
    monkeypatch.setattr(bench, "cases", lambda: (*SMALL, *(case for case in cases() if not case.small)))
    monkeypatch.setattr(bench, "peak", lambda case, contender: 200_000_000 + len(case + contender))
    bench_dp(json=True, quick=True)
    report = json.loads(capsys.readouterr().out)
    assert len(SMALL) == 3
    assert [(row["case"], row["contender"]) for row in report["rows"]] == [
        (case.name, contender.name) for case in SMALL for contender in CONTENDERS
    ]
    for row in report["rows"]:
        assert row["milliseconds"] > 0
        assert row["peak_bytes"] == 200_000_000 + len(row["case"] + row["contender"])
    assert any(target["reached"] is not None for target in report["targets"])
    assert report["machine"]["versions"]["opacus"].startswith("1.6")


def test_peak_memory_is_that_of_a_process_of_its_own():
    assert 100e6 < bench.peak("CNN 28", OURS.name) < 2e9
