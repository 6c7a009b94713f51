"""The benchmark of many images: what it measures, and that its goal can be missed."""

import json

import pytest

from simulations.benchmarks import images as bench


@pytest.mark.parametrize("files", ["png", "dicom"])
def test_it_loads_what_it_makes_up(
    files: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.images(30, files, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["files"], len(report["seconds"])) == (30, files, 5)
    assert report["reached"] == (report["peak"] <= 2 << 30)
    monkeypatch.setattr(bench, "_GOAL", 1 << 20)
    bench.images(10, files, as_json=False)
    assert "missed: peak memory" in capsys.readouterr().out
