"""The exact metrics are scikit-learn's, with ties and with unbalanced classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from fedmodels.errors import DataError
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.evaluation.scores import confusion_matrix

KEYS = {"n", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "auprc", "sensitivity_at_specificity", "ece", "loss"}


@st.composite
def predictions(draw: st.DrawFn, labels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: any number of records, rare classes, scores rounded to produce ties."""
    classes = labels or draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(classes, 120))
    frequency = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.3, 5.0]))))
    y = np.concatenate([np.arange(classes), rng.choice(classes, n - classes, p=frequency)])
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[y]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if (parts := draw(st.sampled_from([0, 4, 10]))) != 0:
        rounded = np.round(p[:, 1:] * parts / classes) / parts
        p = np.column_stack([1 - rounded.sum(1), rounded]).clip(0, 1)
    return p, y


@settings(max_examples=100, deadline=None)
@given(predictions())
def test_every_metric_is_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    p, y = data
    labels = p.shape[1]
    ours = exact_metrics(p, y)
    binary = labels == 2
    guess = (p[:, 1] >= 0.5).astype(int) if binary else p.argmax(1)
    columns = [1] if binary else list(range(labels))
    assert ours.keys() == KEYS | ({"sensitivity", "specificity"} if binary else set())
    assert ours["n"] == len(y)
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, guess))
    if binary:
        assert ours["sensitivity"] == pytest.approx(reference.recall_score(y, guess))
        assert ours["specificity"] == pytest.approx(reference.recall_score(y, guess, pos_label=0))
    curves = [reference.roc_curve(y == k, p[:, k], drop_intermediate=False) for k in columns]
    reached = [true[false <= 0.1 + 1e-9].max() for false, true, _ in curves]
    assert ours["sensitivity_at_specificity"] == pytest.approx(np.mean(reached))
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(y, guess, average="macro"))
    assert ours["auroc"] == pytest.approx(np.mean([reference.roc_auc_score(y == k, p[:, k]) for k in columns]))
    assert ours["auprc"] == pytest.approx(
        np.mean([reference.average_precision_score(y == k, p[:, k]) for k in columns])
    )
    assert ours["loss"] == pytest.approx(reference.log_loss(y, p, labels=list(range(labels))))


def test_the_multiclass_auroc_is_scikit_learns_macro_average() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.dirichlet([1, 1, 1], 200), rng.integers(0, 3, 200)
    assert exact_metrics(p, y)["auroc"] == pytest.approx(reference.roc_auc_score(y, p, multi_class="ovr"))


@settings(max_examples=50, deadline=None)
@given(predictions(labels=2))
def test_the_calibration_error_is_that_of_scikit_learns_curve(data: tuple[np.ndarray, np.ndarray]) -> None:
    score, y = data[0][:, 1], data[1]
    # scikit-learn's bins are closed on the right, ours on the left: move scores off the edges.
    score = np.where(score * 16 == np.round(score * 16), np.clip(score + 1e-9, 0, 1 - 1e-9), score)
    true, mean = calibration_curve(y, score, n_bins=16)
    sizes = np.bincount((score * 16).astype(int), minlength=16)
    expected = float((sizes[sizes > 0] * np.abs(true - mean)).sum() / len(y))
    assert exact_metrics(np.column_stack([1 - score, score]), y)["ece"] == pytest.approx(expected)


def test_the_confusion_matrix_has_the_true_labels_as_rows() -> None:
    y, guess = np.array([0, 0, 2]), np.array([1, 1, 2])
    assert confusion_matrix(y, guess, 3).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_the_metrics_of_four_records_worked_out_by_hand() -> None:
    score, y = np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1])
    # AUROC: of the 4 pairs, 3 are in order and 1 is tied. AUPRC: 1/2 * 1 + 1/2 * 2/3. Predicted: 0, 0, 0, 1.
    assert exact_metrics(np.column_stack([1 - score, score]), y) == pytest.approx(
        {
            "n": 4.0,
            "accuracy": 0.75,
            "auroc": 3.5 / 4,
            "auprc": 0.5 + 1 / 3,
            "macro_f1": (2 * 2 / 5 + 2 * 1 / 3) / 2,
            "balanced_accuracy": 0.75,
            "sensitivity": 0.5,
            "specificity": 1.0,
            "sensitivity_at_specificity": 0.5,
            "ece": (0.1 + abs(1 - 0.8) + 0.2) / 4,
            "loss": -np.log([0.9, 0.6, 0.4, 0.8]).mean(),
        }
    )


def test_what_is_undefined_is_left_out() -> None:
    p = np.array([[0.3, 0.7], [0.8, 0.2]])
    assert set(exact_metrics(p, np.array([1, 1]))) == KEYS - {"auroc", "auprc", "sensitivity_at_specificity"} | {
        "sensitivity"
    }
    assert exact_metrics(p[:0], np.array([], dtype=np.int64)) == {"n": 0.0}


def test_a_label_that_does_not_occur_is_left_out_of_the_macro_averages() -> None:
    rng = np.random.default_rng(2)
    p, y = rng.dirichlet([1, 1, 1], 50), rng.integers(0, 2, 50)
    expected = np.mean([reference.roc_auc_score(y == k, p[:, k]) for k in (0, 1)])
    assert exact_metrics(p, y)["auroc"] == pytest.approx(expected)


def test_certainty_about_the_wrong_label_has_a_finite_loss() -> None:
    assert exact_metrics(np.array([[1.0, 0.0]]), np.array([1]))["loss"] == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, 0.5]], [[0]], "do not match 1 records"),
        ([[0.5, 0.5]], [0, 1], r"shape \(1, 2\) do not match 2 records"),
        ([[2.0, -1.0]], [0], "not probabilities"),
        ([[np.nan, np.nan]], [0], "not probabilities"),
        ([[0.9, 0.9]], [0], "not probabilities"),
        ([[0.5, 0.5]], [2], "not one of the study's"),
        ([[0.5, 0.5]], [-1], "not one of the study's"),
    ],
)
def test_what_are_not_predictions_is_refused(p: list[list[float]], y: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        exact_metrics(np.array(p), np.array(y))
