"""The stated binning errors hold for any records, and on real predictions the AUROC is within 0.005."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exact_metrics import predictions

from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.evaluation import binning
from fedmodels.evaluation.calibration import Working, calibrated
from fedmodels.evaluation.counts import Layout, histogram
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.evaluation.noise import Noise
from fedmodels.evaluation.summary import summarise
from fedmodels.settings import apply_settings
from fedmodels.study import parse_study
from simulations.benchmarks.baselines import train_pooled

REPOSITORY = Path(__file__).parents[2]
ROUNDING = 1e-9


def counts_of(p: np.ndarray, y: np.ndarray, layout: Layout) -> np.ndarray:
    return histogram(p, y, np.arange(len(y)).astype(str), layout)


def assert_bounds_hold(p: np.ndarray, y: np.ndarray, bins: int) -> None:
    layout = Layout(p.shape[1], bins)
    told = summarise(counts_of(p, y, layout), layout, "half", 0.9, Noise())
    exact = exact_metrics(p, y, Working(told.calibration.temperature))
    for name in exact:
        error = abs(told.metrics[name] - exact[name])
        if name.endswith("_calibrated") and name not in told.binning_error:
            continue  # of more than two labels, or a loss: approximate, and not told to be more
        assert error <= told.binning_error.get(name, 0.0) + ROUNDING, name


@settings(max_examples=120, deadline=None)
@given(predictions(), st.sampled_from([16, 32, 256]), st.sampled_from([1.0, 3.0]))
def test_every_stated_binning_error_is_a_bound(data: tuple[np.ndarray, np.ndarray], bins: int, sharper: float) -> None:
    p, y = data
    assert_bounds_hold(calibrated(p, 1 / sharper), y, bins)


@settings(max_examples=40, deadline=None)
@given(predictions(labels=2), st.sampled_from([16, 256]), st.floats(0.3, 4.0))
def test_the_bound_of_the_calibrated_error_holds_at_any_temperature(
    data: tuple[np.ndarray, np.ndarray], bins: int, temperature: float
) -> None:
    """A bin may then be in two calibration groups: without the share for that, the bound fails."""
    p, y = data
    layout = Layout(2, bins)
    head = layout.split(counts_of(p, y, layout))[0][0]
    middles = calibrated(np.stack([1 - layout.middles, layout.middles], 1), temperature)[:, 1]
    group = np.minimum((middles * 16).astype(int), 15)
    binned = np.abs(np.bincount(group, weights=head[1] - head.sum(0) * middles, minlength=16)).sum() / len(y)
    exact = exact_metrics(calibrated(p, temperature), y)["ece"]
    bound = binning.calibration_error_error(head, layout.edges, layout.middles, temperature)
    assert abs(binned - exact) <= bound + ROUNDING


def test_a_bound_is_reached() -> None:
    """All records in one bin, positives above negatives or below: AUROC 1 or 0 instead of 1/2."""
    layout = Layout(2, 16)
    score = np.array([0.51, 0.52, 0.53, 0.54])
    p = np.column_stack([1 - score, score])
    for y, area in ((np.array([0, 0, 1, 1]), 1.0), (np.array([1, 1, 0, 0]), 0.0)):
        told = summarise(counts_of(p, y, layout), layout, "half", 0.9, Noise())
        assert exact_metrics(p, y)["auroc"] == area
        assert told.metrics["auroc"] == 0.5
        assert told.binning_error["auroc"] == 0.5


@cache
def real_predictions(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Test probabilities and labels of a study's model after a few steps on all training records together."""
    root = Path(os.environ.get("FEDMODELS_DATA") or REPOSITORY.parent / "shared" / "data")
    folder, source = REPOSITORY / "simulations" / "studies" / name, {"pneumonia": "pneumoniamnist"}
    if not (root / source.get(name, "zh_internal_medicine")).is_dir():
        pytest.skip(f"the public data of {name} are not here: set FEDMODELS_DATA")
    steps = {"pneumonia": 20, "chinese_triage": 30}[name]
    text = (folder / "study.toml").read_text(encoding="utf-8")
    study = parse_study(apply_settings(text, ("training.rounds=1", f"training.local_steps={steps}")))
    data = load(folder / "data.toml", study)
    test = data.part(TEST)
    return train_pooled(study, {"all": data})(test), test.y


@pytest.mark.parametrize("name", ["pneumonia", "chinese_triage"])
def test_on_real_predictions_the_auroc_from_counts_is_the_exact_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMODELS_DATA", os.environ.get("FEDMODELS_DATA") or str(REPOSITORY.parent / "shared" / "data"))
    p, y = real_predictions(name)
    layout = Layout(p.shape[1], 256)
    exact = exact_metrics(p, y)
    told = summarise(counts_of(p, y, layout), layout, "half", 0.9, Noise()).metrics
    assert exact["auroc"] > 0.8
    assert abs(told["auroc"] - exact["auroc"]) <= 0.005
    for name_ in ("n", "accuracy", "balanced_accuracy", "macro_f1"):
        assert told[name_] == pytest.approx(exact[name_])
    assert_bounds_hold(p, y, 256)
    # The control: as few bins as noise allows are too few for a model as sure of itself as this one.
    coarse = Layout(p.shape[1], 16)
    sharp = calibrated(p, 0.2)
    few = summarise(counts_of(sharp, y, coarse), coarse, "half", 0.9, Noise()).metrics
    assert abs(few["auroc"] - exact_metrics(sharp, y)["auroc"]) > 0.005
