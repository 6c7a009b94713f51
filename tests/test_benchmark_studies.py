"""The pure parts of the benchmark of the bundled studies: pooling, features, baselines and summaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from simulations.benchmarks.baselines import flat_features, pool, scores, train_linear, train_pooled
from simulations.benchmarks.rows import TABLES
from simulations.benchmarks.studies import Estimate, folder_of, summarise, table_of

TABLE = """
[study]
name = "points"
task = "binary"
labels = ["left", "right"]
[model]
name = "mlp"
sizes = { hidden = [] }
[input]
modality = "table"
columns = [{ name = "a", low = 0, high = 1 }]
[training]
rounds = 5
local_steps = 20
batch_rate = 0.5
learning_rate = 1.0
[privacy]
mode = "none"
[federation]
hospitals = 3
"""
TEXT = TABLE.replace('modality = "table"', 'modality = "text"\nvocabulary = 16\nmax_tokens = 4').replace(
    'columns = [{ name = "a", low = 0, high = 1 }]', ""
)
LABELS = 'labels = ["left", "right"]', 'labels = ["left", "right", "never"]'


def hospital(shift: float, records: int = 40) -> Dataset:
    """Records whose only feature tells the label; every hospital names its patients 0, 1, 2, ..."""
    y = np.arange(records) % 2
    x = np.column_stack([0.1 + shift + 0.6 * y, np.zeros(records)]).astype(np.float32)
    split = np.where(np.arange(records) < records // 2, TRAIN, TEST).astype(np.uint8)
    return Dataset(np.arange(records).astype(np.str_), x, y.astype(np.int64), split)


PARTS = {"a": hospital(0.0), "b": hospital(0.1), "c": hospital(0.2, 20)}


def test_patients_of_different_hospitals_with_the_same_name_stay_different() -> None:
    train = pool(PARTS, TRAIN)
    assert len(train) == 20 + 20 + 10
    assert len(set(train.patients.tolist())) == len(train)
    assert set(train.split.tolist()) == {TRAIN}


def test_pooling_keeps_the_lengths_of_sequences_with_their_records() -> None:
    data = Dataset(
        np.array(["p", "q"]), np.array([[3, 4], [5, 0]], np.int32), np.array([0, 1]),
        np.array([TRAIN, TRAIN], np.uint8), np.array([2, 1]),
    )  # fmt: skip
    pooled = pool({"a": data, "b": data.take([1])}, TRAIN)
    assert pooled.lengths is not None
    assert pooled.lengths.tolist() == [2, 1, 1]
    assert pooled.x.tolist() == [[3, 4], [5, 0], [5, 0]]


def test_pooled_scores_count_records_and_hospital_accuracy_counts_hospitals() -> None:
    def always_left(data: Dataset) -> np.ndarray:
        return np.tile([0.9, 0.1], (len(data), 1))

    parts = {"all-left": hospital(0.0).take([20, 22, 24, 26, 28, 30]), "all-right": hospital(0.0).take([21, 23])}
    measured = scores(always_left, parts)
    assert measured["n"] == 8
    assert measured["accuracy"] == pytest.approx(6 / 8)
    assert measured["hospital_accuracy"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("train", [train_linear, train_pooled])
def test_baselines_learn_what_can_be_learnt(train: type) -> None:
    assert scores(train(parse_study(TABLE), PARTS), PARTS)["auroc"] == 1.0


def test_pooled_training_takes_as_many_steps_as_all_rounds_of_one_hospital() -> None:
    """One round of 100 steps is 5 rounds of 20 steps; one round of 20 is not."""
    study = parse_study(TABLE)
    one_round = parse_study(apply_settings(TABLE, ["training.rounds=1", "training.local_steps=100"]))
    fewer = parse_study(apply_settings(TABLE, ["training.rounds=1"]))
    test = PARTS["a"].part(TEST)
    expected = train_pooled(study, PARTS)(test)
    assert np.array_equal(expected, train_pooled(one_round, PARTS)(test))
    assert not np.array_equal(expected, train_pooled(fewer, PARTS)(test))


def test_the_linear_model_gives_a_label_without_training_records_no_probability() -> None:
    study = parse_study(TABLE.replace(*LABELS).replace('"binary"', '"multiclass"'))
    probabilities = train_linear(study, PARTS)(PARTS["a"].part(TEST))
    assert probabilities.shape == (20, 3)
    assert probabilities[:, 2].max() == 0.0
    assert np.allclose(probabilities.sum(1), 1.0)


def test_class_weights_reach_the_linear_model() -> None:
    def mean_right(text: str) -> float:
        return float(train_linear(parse_study(text), PARTS)(PARTS["a"].part(TEST))[:, 1].mean())

    assert mean_right(apply_settings(TABLE, ["training.class_weights=[1.0, 9.0]"])) > mean_right(TABLE) + 0.1


@given(st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=4), min_size=1, max_size=5))
def test_text_features_are_the_counts_of_every_token_but_padding(rows: list[list[int]]) -> None:
    x = np.array([row + [0] * (4 - len(row)) for row in rows], np.int32)
    n = len(rows)
    data = Dataset(np.arange(n).astype(np.str_), x, np.zeros(n, np.int64), np.zeros(n, np.uint8), np.full(n, 4))
    study: Study = parse_study(TEXT)
    expected = [[np.log1p(row.count(token) if token else 0) for token in range(16)] for row in rows]
    assert np.allclose(flat_features(study, data), expected)


def test_a_summary_is_mean_and_standard_error_of_the_mean() -> None:
    runs = [{"accuracy": a, "seconds": 1.0} for a in (0.6, 0.7, 0.8)]
    assert summarise(runs)["accuracy"].mean == pytest.approx(0.7)
    assert summarise(runs)["accuracy"].standard_error == pytest.approx(0.1 / np.sqrt(3))
    assert summarise(runs[:1])["accuracy"] == Estimate(0.6, None)


def test_a_column_that_a_run_lacks_is_left_out_of_the_table() -> None:
    summary = summarise([{"accuracy": 0.5, "auroc": 0.5}, {"accuracy": 0.5}])
    assert list(summary) == ["accuracy"]
    assert table_of("points", 2, {"row": summary}).row_count == 1


@pytest.mark.parametrize(("name", "title"), [(name, row.title) for name, rows in TABLES.items() for row in rows])
def test_every_row_is_a_valid_variation_of_its_study_and_at_the_epsilon_it_claims(name: str, title: str) -> None:
    (row,) = [row for row in TABLES[name] if row.title == title]
    study = parse_study(apply_settings((folder_of(name) / "study.toml").read_text(encoding="utf-8"), row.settings))
    _, claims_epsilon, epsilon = title.partition("local epsilon ")
    assert study.privacy.mode == ("local" if claims_epsilon else "none")
    assert study.privacy.delta == 1e-5
    if claims_epsilon:
        assert study.privacy.epsilon == float(epsilon)
