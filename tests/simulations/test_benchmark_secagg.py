"""The benchmarks of secure aggregation: their structure, and that every contender computes the plain integer sum."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simulations.benchmarks import round_overhead
from simulations.benchmarks.aggregation.contest import AGGREGATOR, CONTRIBUTOR, Case, Clock, Inputs
from simulations.benchmarks.secagg import CONTENDERS, OURS, REFERENCE


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("case", [Case(1, 4, False), Case(5000, 5, True), Case(70_000, 6, True)], ids=str)
def test_every_contender_finds_the_plain_integer_sum(contender, case):
    if reason := contender.missing():
        pytest.skip(reason)
    inputs = Inputs(case)
    expected = [
        sum(column) % 2**32 for column in zip(*(inputs.integers(i).tolist() for i in case.uploading), strict=True)
    ]
    run = contender.prepare(case, inputs)
    for _ in range(2):
        clock = Clock()
        outcome = run(clock)
        assert outcome.total.dtype == np.uint32
        assert outcome.total.tolist() == expected
        assert outcome.bytes_up >= 4 * case.words
        assert clock.seconds["add"] > 0


def command(*arguments: str, cwd: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "fedmodels.cli", "bench", *arguments, "--quick", "--json"],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=600, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_bench_secagg_reports_every_contender_in_every_case(tmp_path):
    report = command("secagg", cwd=tmp_path)
    rows = report["rows"]
    assert [(row["contender"], row["case"]["dropout"]) for row in rows] == [
        (contender.name, dropout) for dropout in (False, True) for contender in CONTENDERS
    ]
    for row in rows:
        assert (row["timing"] is None) == row["note"].startswith("not installed")
        if row["timing"] is not None:
            assert set(row["timing"]["phases"]) == {*CONTRIBUTOR, *AGGREGATOR}
            assert row["timing"]["aggregator"] > 0
    ours, recover, theirs = ([row for row in rows if row["contender"] == c.name] for c in (*OURS, REFERENCE))
    assert [row["exchanges"] for row in ours] == [1, 2]
    assert [row["exchanges"] for row in recover] == [2, 3]
    assert [row["exchanges"] for row in theirs] == [4, 4]
    assert ours[0]["bytes_up_per_parameter"] == pytest.approx(4, abs=0.01)
    assert recover[0]["bytes_up_per_parameter"] == pytest.approx(4, abs=0.01)
    assert theirs[0]["bytes_up_per_parameter"] == pytest.approx(8, abs=0.02)
    assert set(ours[0]["times_reference"]) == {"mask", "stage", "contributor", "aggregator"}
    assert report["floor"]["share"] > 0
    assert 0 < report["memory"]["model_sizes"] < 4  # 10 uploads went through: it does not hold them all
    assert report["scale"]["round"] == {"words": 100_000, "contributors": 30, "dropped": 3}
    assert 0 < report["scale"]["hospital_seconds"] * 27 == pytest.approx(report["scale"]["hospitals_seconds"])
    assert report["scale"]["coordinator_seconds"] > 0
    assert len(report["targets"]) == 10
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["versions"]["flwr"].startswith("1.41")


def test_bench_round_compares_a_secure_round_with_a_plain_sum(tmp_path):
    report = command("round", cwd=tmp_path)
    rows = [(row["model"], row["mode"]) for row in report["rows"]]
    assert rows == [("mlp", "local"), ("article-text-lstm", "local"), ("mlp", "none")]
    for row in report["rows"]:
        assert 0 < row["plain_part_ms"] < row["secure_part_ms"] < row["secure_ms"]
    assert report["reached"] is None


def test_the_plain_sum_leaves_the_product_as_it_was():
    before = [getattr(owner, name) for owner, name, _ in round_overhead._PLAIN]
    with round_overhead._replaced([], plain=True):
        assert [getattr(owner, name) for owner, name, _ in round_overhead._PLAIN] != before
    assert [getattr(owner, name) for owner, name, _ in round_overhead._PLAIN] == before
