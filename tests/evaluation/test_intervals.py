"""Intervals cover, with and without noise; a wrong variance would be noticed."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmodels.dp.randomness import SecureSource, discrete_laplace
from fedmodels.evaluation import scores, uncertainty
from fedmodels.evaluation.counts import Layout, histogram
from fedmodels.evaluation.noise import Noise, smoothed
from fedmodels.evaluation.summary import summarise

RUNS = 150
COVERED = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "ece", "loss", "sensitivity_at_specificity")


def counts(n: int, labels: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    y = rng.choice(labels, n, p=np.arange(1, labels + 1) / np.arange(1, labels + 1).sum())
    odds = 1.5 * (rng.normal(size=(n, labels)) + np.eye(labels)[y])
    p = np.exp(odds) / np.exp(odds).sum(1, keepdims=True)
    return histogram(p, y, np.arange(n).astype(str), layout)


def coverage(n: int, layout: Layout, noise: Noise, assumed: Noise) -> dict[str, float]:
    """How often the interval holds the value of a very large sample, by metric."""
    rng = np.random.default_rng(3)
    truth = summarise(counts(300_000, layout.labels, layout, rng), layout, "half", 0.9, Noise()).metrics
    hits: dict[str, list[bool]] = defaultdict(list)
    for _ in range(RUNS):
        vector = counts(n, layout.labels, layout, rng) + noise.draw((layout.length,), rng)
        for name, (low, high) in summarise(vector, layout, "half", 0.9, assumed).intervals.items():
            hits[name].append(low <= truth.get(name, -1.0) <= high)
    return {name: float(np.mean(values)) for name, values in hits.items()}


@pytest.mark.parametrize(
    ("n", "layout", "noise"),
    [
        (200, Layout(2, 64), Noise()),
        (300, Layout(2, 32), Noise(4, 1.0)),
        (300, Layout(3, 32), Noise()),
        (1500, Layout(3, 32), Noise(4, 4.0)),
    ],
)
def test_95_percent_intervals_cover_at_least_about_as_often(n: int, layout: Layout, noise: Noise) -> None:
    found = coverage(n, layout, noise, noise)
    wanted = COVERED if layout.labels > 2 else (*COVERED, "sensitivity", "specificity")
    for name in wanted:
        assert found[name] >= 0.90, name  # 0.95 but for 3 standard errors of 150 runs
    assert found["accuracy"] <= 0.995  # and not because they are as long as they like


def test_intervals_that_forget_the_noise_do_not_cover() -> None:
    found = coverage(300, Layout(2, 32), Noise(4, 1.0), Noise())
    assert min(found["accuracy"], found["auroc"]) < 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_every_gradient_is_that_of_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    head, step = rng.uniform(1.0, 9.0, (2, 6)), 1e-5
    area, precision = scores.auroc(head) or 0.0, scores.average_precision(head) or 0.0
    told = {
        scores.auroc: uncertainty.auroc_gradient(head, area),
        scores.average_precision: uncertainty.average_precision_gradient(head, precision),
    }
    confusion = rng.uniform(1.0, 9.0, (3, 3) if seed % 2 else (2, 2))
    for name, (_, gradient, _) in uncertainty.confusion_gradients(confusion).items():
        assert gradient == pytest.approx(
            _slopes(lambda c, n=name: scores.at_threshold(c)[n], confusion, step), abs=1e-6
        )
    for metric, gradient in told.items():
        assert gradient == pytest.approx(_slopes(metric, head, step), abs=1e-6)


def _slopes(metric, counts: np.ndarray, step: float) -> np.ndarray:
    found = np.zeros_like(counts)
    for place in np.ndindex(counts.shape):
        for sign in (1, -1):
            moved = counts.copy()
            moved[place] += sign * step
            found[place] += sign * metric(moved) / (2 * step)
    return found


def test_the_auroc_variance_is_delongs() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    order = (positives[:, None] > negatives).astype(float) + 0.5 * (positives[:, None] == negatives)
    # DeLong et al. 1988, with the number of records instead of one less.
    delong = order.mean(1).var() / 40 + order.mean(0).var() / 60
    values = np.unique(np.concatenate([positives, negatives]))
    head = np.stack([(side[:, None] == values).sum(0) for side in (negatives, positives)]).astype(float)
    gradient = uncertainty.auroc_gradient(head, order.mean())
    assert (head * gradient**2).sum() == pytest.approx(delong)


def test_a_proportion_without_noise_has_wilsons_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, 0 of 20.
    for hits, n, expected in ((81, 263, (0.2553, 0.3662)), (0, 20, (0.0, 0.1611))):
        share = hits / n
        spread = uncertainty.Spread(share, float(np.sqrt(share * (1 - share) / n)), 0.0, n)
        assert uncertainty.interval(share, spread) == pytest.approx(expected, abs=1e-4)


def test_the_noise_of_an_interval_is_the_noise_that_hospitals_draw() -> None:
    scale, hospitals = 3, 5
    drawn = sum(discrete_laplace(4000, scale, SecureSource()) for _ in range(hospitals))
    noise = Noise(hospitals, scale)
    replicate = noise.draw((4000,), np.random.default_rng(1))
    assert drawn.var() == pytest.approx(noise.variance, rel=0.12)
    assert replicate.var() == pytest.approx(noise.variance, rel=0.12)
    assert Noise().variance == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_smoothing_keeps_totals_and_exact_counts_and_leaves_nothing_negative(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.integers(0, 5, (2, bins)).astype(float)
    assert (smoothed(exact) == exact).all()
    noisy = exact + Noise(3, 2.0).draw(exact.shape, rng)
    found = smoothed(noisy)
    assert found.min() >= 0
    assert (found.sum(1) <= np.maximum(noisy.sum(1), 0) + 1e-9).all()


def test_no_interval_is_told_where_noise_hides_the_number_of_records() -> None:
    layout, rng = Layout(4, 32), np.random.default_rng(0)
    vector = counts(100, 4, layout, rng) + Noise(4, 5.0).draw((layout.length,), rng)
    assert summarise(vector, layout, "half", 0.9, Noise(4, 5.0)).intervals == {}
