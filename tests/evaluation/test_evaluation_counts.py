"""Metrics from counts: close to the exact ones, additive over hospitals, bounded per patient, robust to noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_exact_metrics import predictions

from fedmodels.errors import DataError, RunError, UsageError
from fedmodels.evaluation.counts import Layout, first_records, histogram
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.evaluation.noise import Noise
from fedmodels.evaluation.scores import average_precision
from fedmodels.evaluation.summary import summarise

LAYOUTS = st.builds(Layout, st.integers(2, 5), st.sampled_from([16, 32, 256]))


def metrics(counts: np.ndarray, layout: Layout) -> dict[str, float]:
    """Of the model as it is: where the counts ask for another temperature, what that gives is left out."""
    found = summarise(counts, layout, "half", 0.9, Noise()).metrics
    return {name: value for name, value in found.items() if not name.endswith("_calibrated")}


def names(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def a_model(n: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.choice(labels, n, p=np.arange(1, labels + 1) / np.arange(1, labels + 1).sum())
    logits = rng.normal(size=(n, labels)) + np.eye(labels)[y]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), y


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_metrics_from_256_bins_are_close_to_the_exact_ones(labels: int, seed: int) -> None:
    p, y = a_model(1000, labels, seed)
    layout = Layout(labels)
    binned, exact = metrics(histogram(p, y, names(1000), layout), layout), exact_metrics(p, y)
    assert binned.keys() == exact.keys()
    assert all(binned[key] == exact[key] for key in ("n", "accuracy", "balanced_accuracy", "macro_f1"))
    for key, most in {"auroc": 0.005, "auprc": 0.007, "ece": 0.005, "loss": 0.005}.items():
        assert abs(binned[key] - exact[key]) <= most, key


@pytest.mark.parametrize("bins", [16, 32, 48, 256])
def test_edges_are_distinct_symmetric_and_those_of_the_calibration_bins_too(bins: int) -> None:
    edges = Layout(2, bins).edges
    assert len(edges) == bins - 1
    assert (np.diff(edges) > 0).all()
    symmetric = edges[np.abs(np.log(edges / (1 - edges))) < 8.001]
    assert symmetric == pytest.approx(1 - symmetric[::-1], abs=1e-12)
    assert np.searchsorted(edges, 0.5) == len(edges) // 2  # two labels' confusion is read off the two halves
    assert set(np.arange(1, 16) / 16) <= set(edges.tolist())


def test_a_confident_model_keeps_its_auroc_where_equal_bins_lose_it() -> None:
    """Scores crowd at 0 and 1, as those of a trained model do: most pairs would be tied in 32 equal bins."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    score = 1 / (1 + np.exp(-(6 * rng.normal(size=4000) + 8 * (y - 0.5))))
    p, layout = np.column_stack([1 - score, score]), Layout(2, 32)
    exact = exact_metrics(p, y)["auroc"]
    assert abs(metrics(histogram(p, y, names(4000), layout), layout)["auroc"] - exact) < 0.01
    equal = np.digitize(score, np.arange(1, 32) / 32) / 32
    assert abs(exact_metrics(np.column_stack([1 - equal, equal]), y)["auroc"] - exact) > 0.01


def test_a_sure_model_of_many_labels_is_not_tied_at_the_lower_end() -> None:
    """The control: edges that end at log-odds -16 put most scores of such a model into one bin."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 11, 4000)
    logits = 8.0 * (rng.normal(size=(4000, 11)) + 2.0 * np.eye(11)[y])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    layout, exact = Layout(11), exact_metrics(p, y)["auroc"]
    assert abs(metrics(histogram(p, y, names(4000), layout), layout)["auroc"] - exact) < 0.001
    cut = np.maximum(p, 1e-7) / np.maximum(p, 1e-7).sum(1, keepdims=True)
    assert abs(exact_metrics(cut, y)["auroc"] - exact) > 0.001


@settings(max_examples=60, deadline=None)
@given(predictions(), st.sampled_from([16, 48, 256]))
def test_bins_change_only_what_they_must(data: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    p, y = data
    layout = Layout(p.shape[1], bins)
    binned, exact = metrics(histogram(p, y, names(len(y)), layout), layout), exact_metrics(p, y)
    assert binned["accuracy"] == pytest.approx(exact["accuracy"])
    assert binned["macro_f1"] == pytest.approx(exact["macro_f1"])
    assert abs(binned["ece"] - exact["ece"]) <= np.diff(layout.edges, prepend=0, append=1).max() / 2 + 1e-9
    # A pair whose order the bins hide counts one half instead of 0 or 1.
    columns = [1] if layout.labels == 2 else range(layout.labels)
    hidden = []
    for k in columns:
        place = np.searchsorted(layout.edges, p[:, k], side="right")
        hidden.append(np.mean(place[y == k][:, None] == place[y != k][None, :]))
    assert abs(binned["auroc"] - exact["auroc"]) <= np.mean(hidden) / 2 + 1e-9


@settings(max_examples=60, deadline=None)
@given(predictions(), st.sampled_from([16, 256]), st.integers(1, 10**6))
def test_a_patient_changes_the_vector_by_at_most_the_sensitivity(
    data: tuple[np.ndarray, np.ndarray], bins: int, seed: int
) -> None:
    p, y = data
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, max(1, len(y) // 3), len(y)).astype(str)
    layout = Layout(p.shape[1], bins)
    whole = histogram(p, y, patients, layout)
    changes = []
    for patient in set(patients.tolist()):
        rest = patients != patient
        change = whole - histogram(p[rest], y[rest], patients[rest], layout)
        assert np.abs(change).max() == 1
        changes.append(int(np.abs(change).sum()))
    assert set(changes) == {layout.sensitivity}
    assert layout.sensitivity == (1 if layout.labels == 2 else layout.labels + 1)


def test_the_first_record_of_a_patient_counts_and_no_other() -> None:
    p, y = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]), np.array([0, 1, 1])
    assert first_records(["b", "a", "b"]).tolist() == [0, 1]
    layout = Layout(2, 16)
    expected = np.zeros((2, 16), dtype=np.int64)
    expected[0, 1] = expected[1, 12] = 1  # 0.1 and 0.8 in sixteenths
    assert histogram(p, y, ["b", "a", "b"], layout).tolist() == expected.ravel().tolist()


@settings(max_examples=40, deadline=None)
@given(predictions(), st.integers(0, 100))
def test_hospitals_add_up(data: tuple[np.ndarray, np.ndarray], share: int) -> None:
    p, y = data
    cut, layout, patients = len(y) * share // 100, Layout(p.shape[1], 32), names(len(y))
    parts = [histogram(p[s], y[s], patients[s], layout) for s in (slice(0, cut), slice(cut, None))]
    assert sum(parts).tolist() == histogram(p, y, patients, layout).tolist()


@pytest.mark.parametrize("bins", [16, 48, 80, 256])
def test_rounding_does_not_move_a_score_across_one_half(bins: int) -> None:
    score = np.array([np.nextafter(0.5, 0), 0.5, 0.0, 1.0])
    layout = Layout(2, bins)
    vector = histogram(np.column_stack([1 - score, score]), np.array([0, 1, 0, 1]), names(4), layout)
    assert metrics(vector, layout)["accuracy"] == 1.0


@given(LAYOUTS, st.integers(0, 2**32))
def test_split_undoes_pack(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    histograms = rng.integers(0, 9, (layout.heads, 2, layout.bins))
    confusion = rng.integers(0, 9, (layout.labels, layout.labels))
    vector = layout.pack(histograms, confusion)
    again, matrix = layout.split(vector)
    assert vector.shape == (layout.length,)
    assert (again == histograms).all()
    if layout.labels > 2:
        assert (matrix == confusion).all()
    else:
        assert (matrix[:, 0] == histograms[0, :, : layout.bins // 2].sum(1)).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_counts_give_finite_metrics_within_their_range(data: st.DataObject) -> None:
    layout = Layout(data.draw(st.integers(2, 4)), 16)
    vector = data.draw(arrays(np.float64, layout.length, elements=st.floats(-5, 50)))
    for name, value in metrics(vector, layout).items():
        assert np.isfinite(value)
        assert value >= 0
        assert name in ("n", "loss") or value <= 1


@pytest.mark.parametrize("labels", [2, 4])
def test_noise_of_mean_zero_does_not_bias_the_auroc(labels: int) -> None:
    layout = Layout(labels, 32)
    vector = histogram(*a_model(3000, labels), names(3000), layout)
    rng = np.random.default_rng(3)
    noisy = [metrics(vector + rng.normal(scale=2.0, size=layout.length), layout) for _ in range(40)]
    for key, tolerance in {"auroc": 0.0, "accuracy": 0.0, "auprc": 0.02, "loss": 0.01}.items():
        values = np.array([result[key] for result in noisy])
        error = 4 * values.std() / np.sqrt(len(values))
        assert error < 0.06
        assert abs(values.mean() - metrics(vector, layout)[key]) <= error + tolerance, key


def test_a_precision_without_a_record_called_positive_is_zero() -> None:
    # From the top: -1 of -2 called is no precision at all; then 4 of 9. (-1 * 0 + 5 * 4/9) / 4 positives.
    noisy = np.array([[6.0, -1.0], [5.0, -1.0]])
    assert average_precision(noisy) == pytest.approx(5 / 9)


def test_what_is_undefined_is_left_out() -> None:
    layout = Layout(2, 16)
    p = np.array([[0.3, 0.7], [0.8, 0.2]])
    one_class = metrics(histogram(p, np.array([1, 1]), names(2), layout), layout)
    assert set(one_class) == {"n", "accuracy", "balanced_accuracy", "macro_f1", "sensitivity", "ece", "loss"}
    assert metrics(np.zeros(layout.length), layout) == {"n": 0.0}
    assert metrics(np.full(layout.length, -1.0), layout) == {"n": 0.0}


def test_malformed_counts_and_records_are_refused() -> None:
    layout = Layout(3, 16)
    with pytest.raises(RunError, match=r"\(7,\) instead of \(105,\)"):
        metrics(np.zeros(7), layout)
    with pytest.raises(DataError, match="1 patient names for 2 records"):
        histogram(np.full((2, 3), 1 / 3), np.array([0, 1]), ["a"], layout)
    with pytest.raises(DataError, match="of 3 labels"):
        histogram(np.full((2, 2), 0.5), np.array([0, 1]), ["a", "b"], layout)
    for labels, bins in ((1, 16), (2, 0), (2, 15), (2, 40)):
        with pytest.raises(UsageError):
            Layout(labels, bins)
