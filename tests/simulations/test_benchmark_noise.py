"""The noise benchmark: what it measures, and that its goal can be missed."""

import json

import pytest

from simulations.benchmarks import noise as bench


def test_it_measures_exact_noise_beside_ordinary_generators(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_COUNT", 20_000)
    bench.noise(as_json=True, quick=True)
    report = json.loads(capsys.readouterr().out)
    assert [row["exact"] for row in report["rows"]] == [True] * 3 + [False] * 3
    assert all(row["milliseconds"] > 0 for row in report["rows"])
    assert report["reached"]
    bench.noise(as_json=False, quick=True)
    assert "reached: a million exact draws in 60 ms" in capsys.readouterr().out


def test_a_sampler_that_is_too_slow_misses_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_GOAL_MS", 0.0)
    assert not bench.run(1).reached
