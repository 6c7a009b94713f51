"""Temperature and threshold from counts: close to what the predictions themselves give, and careful with few."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from test_binning_bounds import counts_of, real_predictions
from test_exact_metrics import predictions

from fedmodels.evaluation import operating
from fedmodels.evaluation.calibration import Working, calibrated, fit_temperature
from fedmodels.evaluation.counts import Layout
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.evaluation.noise import Noise, smoothed
from fedmodels.evaluation.summary import measure, summarise


def exact_temperature(p: np.ndarray, y: np.ndarray) -> float:
    def loss(logarithm: float) -> float:
        chosen = calibrated(p, float(np.exp(logarithm)))[np.arange(len(y)), y]
        return float(-np.log(chosen.clip(1e-300)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2.5), method="bounded").x))


def temperature(p: np.ndarray, y: np.ndarray, bins: int = 256, noise: Noise | None = None) -> float:
    layout, noise = Layout(p.shape[1], bins), noise or Noise()
    counts = counts_of(p, y, layout) + noise.draw((layout.length,), np.random.default_rng(0))
    return fit_temperature(layout.split(counts)[0], layout.middles, noise).temperature


def a_calibrated_model(n: int, seed: int = 0, odds: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(-rng.normal(0, odds, n)))
    return np.column_stack([1 - score, score]), (rng.random(n) < score).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(predictions(), st.floats(0.2, 5.0))
def test_calibrated_probabilities_are_those_of_scaled_logits(data, scale: float) -> None:
    p, _ = data
    p = p.clip(1e-12)
    p /= p.sum(1, keepdims=True)
    scaled = np.exp(np.log(p) / scale)
    found = calibrated(p, scale)
    assert found == pytest.approx(scaled / scaled.sum(1, keepdims=True))
    assert (found.argmax(1) == p.argmax(1)).all() or np.isclose(np.sort(p, 1)[:, -1], np.sort(p, 1)[:, -2]).any()
    assert calibrated(p, 1.0) == pytest.approx(p, abs=0)


@pytest.mark.parametrize("sharper", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("bins", [32, 256])
def test_two_labels_get_the_temperature_that_the_predictions_give(sharper: float, bins: int) -> None:
    p, y = a_calibrated_model(3000)
    p = calibrated(p, 1 / sharper)
    assert temperature(p, y, bins) == pytest.approx(exact_temperature(p, y), rel=0.06)


@pytest.mark.parametrize(("name", "sharper", "within"), [("pneumonia", 2.0, 0.03), ("chinese_triage", 2.0, 0.15)])
def test_on_real_predictions_the_temperature_is_close_and_lowers_the_exact_loss(
    name: str, sharper: float, within: float
) -> None:
    p, y = real_predictions(name)
    p = calibrated(p, exact_temperature(p, y) / sharper)
    found = temperature(p, y)
    assert found == pytest.approx(sharper, rel=within)
    metrics = exact_metrics(p, y, Working(found))
    best = exact_metrics(p, y, Working(sharper))
    assert metrics["loss"] - metrics["loss_calibrated"] > 0.8 * (best["loss"] - best["loss_calibrated"]) > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_calibrated_model_stays_as_it_is(seed: int) -> None:
    assert temperature(*a_calibrated_model(400, seed)) == 1.0


def test_with_few_records_or_much_noise_the_temperature_stays_1() -> None:
    p, y = a_calibrated_model(3000)
    p = calibrated(p, 0.5)
    layout = Layout(2, 32)

    def why(n: int, noise: Noise) -> str:
        counts = counts_of(p[:n], y[:n], layout) + noise.draw((layout.length,), np.random.default_rng(0))
        found = fit_temperature(layout.split(counts)[0], layout.middles, noise)
        assert (found.temperature == 1.0) == (found.why != "fitted to the counts")
        return found.why

    assert why(30, Noise()) == "too few records for a fit"
    assert why(300, Noise(4, 8.0)) == "too few records for a fit"
    assert why(60, Noise()) in ("the counts do not tell it from 1", "too few records for a fit")
    assert why(3000, Noise(4, 1.0)) == "fitted to the counts"


@pytest.mark.parametrize(("rule", "least"), [("youden", 0.0), ("specificity", 0.9)])
def test_a_threshold_is_the_best_of_all_edges(rule, least: float) -> None:
    p, y = a_calibrated_model(2000, 1)
    layout = Layout(2, 256)
    told = summarise(counts_of(p, y, layout), layout, rule, 0.9, Noise())
    assert told.operating_point is not None
    assert told.operating_point.rule == rule
    cases = [exact_metrics(p, y, Working(threshold=float(edge))) for edge in layout.edges]
    good = [
        m["balanced_accuracy"] if rule == "youden" else m["sensitivity"] for m in cases if m["specificity"] >= least
    ]
    assert told.metrics["balanced_accuracy" if rule == "youden" else "sensitivity"] == pytest.approx(max(good))
    # The card's threshold is one of calibrated probabilities, and gives the same predictions.
    working = Working(told.calibration.temperature, told.operating_point.threshold)
    exact = exact_metrics(p, y, working)
    for name in ("sensitivity", "specificity", "accuracy", "macro_f1"):
        assert exact[name] == pytest.approx(told.metrics[name])


def test_a_sharp_models_threshold_is_told_for_its_calibrated_probabilities() -> None:
    p, y = a_calibrated_model(3000, 2)
    p = calibrated(p, 1 / 3)
    layout = Layout(2, 256)
    told = summarise(counts_of(p, y, layout), layout, "specificity", 0.9, Noise())
    assert told.operating_point is not None
    assert told.calibration.temperature > 2.0
    assert told.metrics["ece_calibrated"] < told.metrics["ece"] / 2
    exact = exact_metrics(p, y, Working(told.calibration.temperature, told.operating_point.threshold))
    assert exact["sensitivity"] == pytest.approx(told.metrics["sensitivity"])
    assert exact["ece_calibrated"] == pytest.approx(told.metrics["ece_calibrated"], abs=0.01)


def test_too_few_records_leave_the_threshold_at_one_half() -> None:
    p, y = a_calibrated_model(30)
    layout = Layout(2, 256)
    told = summarise(counts_of(p, y, layout), layout, "youden", 0.9, Noise())
    assert told.operating_point is not None
    assert (told.operating_point.rule, told.operating_point.threshold, told.optimism) == ("half", 0.5, {})


def test_the_optimism_of_a_chosen_threshold_is_about_what_new_patients_show() -> None:
    """Over many samples of 200, the balanced accuracy at Youden's threshold is too good by what is told, nearly."""
    layout, rng = Layout(2, 256), np.random.default_rng(0)

    def head(n: int) -> np.ndarray:
        y = (rng.random(n) < 0.4).astype(np.int64)
        score = 1 / (1 + np.exp(-(1.2 * rng.normal(size=n) + 2.4 * (y - 0.5))))
        return layout.split(counts_of(np.column_stack([1 - score, score]), y, layout))[0][0]

    everybody = np.mean(operating.rates(head(400_000)[None]), axis=0)[0]
    gaps, told = [], []
    for _ in range(150):
        sample = head(200)
        cut = operating.chosen_cut(sample, "youden", 0.9, Noise())
        replicates = smoothed(rng.poisson(sample, (60, 2, 256)).astype(float))
        gaps.append(np.mean(operating.rates(sample[None]), axis=0)[0][cut - 1] - everybody[cut - 1])
        told.append(operating.optimism(replicates, sample, "youden", 0.9)["balanced_accuracy"])
    assert 0.01 < np.mean(gaps) < 0.03
    assert 0.5 * np.mean(gaps) < np.mean(told) < 1.2 * np.mean(gaps)
    assert operating.optimism(replicates, sample, "half", 0.9) == {}


def test_other_counts_are_measured_at_the_same_point() -> None:
    layout = Layout(2, 256)
    p, y = a_calibrated_model(3000)
    p = calibrated(p, 1 / 2)
    whole = summarise(counts_of(p, y, layout), layout, "youden", 0.9, Noise())
    part = measure(counts_of(p[:200], y[:200], layout), layout, 0.9, Noise(), whole)
    assert whole.operating_point is not None
    working = Working(whole.calibration.temperature, whole.operating_point.threshold)
    exact = exact_metrics(p[:200], y[:200], working)
    assert part.metrics.keys() == exact.keys()
    assert part.metrics["accuracy"] == pytest.approx(exact["accuracy"])
    assert (part.operating_point, part.calibration) == (whole.operating_point, whole.calibration)
