"""Checks of who is there: every fault planted is found, and where it is absent nothing is said."""

import dataclasses

import msgspec
import numpy as np
import pytest
from check_subjects import bad, found, table

from fedmodels.data.checks.statistics import auroc, auroc_lower, most_by_chance, wilson
from fedmodels.data.dataset import TEST, TRAIN


def test_records_without_a_fault_are_called_ok_throughout():
    assert bad(table(1000)) == {}


def test_one_patient_with_most_of_the_rows_is_found_with_all_of_them():
    patients = np.array(["x"] * 10_000 + [f"p{row}" for row in range(200)])
    many = table(10_200, patients=patients, split=np.zeros(10_200, dtype=np.uint8))
    finding = found(many)["records"]
    assert finding.verdict == "warn"
    assert finding.numbers["most_of_one_patient"] == 10_000
    assert "98 %" in finding.what
    assert [len(group) for group in finding.groups] == [10_000]


def test_three_records_of_every_patient_are_ordinary():
    assert found(table(900, patients=np.repeat(np.arange(300).astype(str), 3), split=np.zeros(900, np.uint8)))[
        "records"
    ].verdict == "ok"  # fmt: skip


@pytest.mark.parametrize(
    ("split", "verdict"), [(TEST, "fail"), (TRAIN, "warn")], ids=["no training patient", "no test patient"]
)
def test_an_empty_split_is_found(split, verdict):
    assert bad(table(400, split=np.full(400, split, dtype=np.uint8)))["split"] == verdict


def test_few_test_patients_are_told_with_the_uncertainty_they_leave():
    few = found(table(200))["split"]
    assert few.verdict == "warn"  # 50 of them
    assert "±0.14" in few.what
    assert found(table(1000))["split"].verdict == "ok"


@pytest.mark.parametrize("labels", [("absent", "disease"), ("absent", "disease", "other")])
def test_a_class_that_is_absent_is_found(labels):
    one = table(400, labels=labels, y=np.full(400, 1))
    assert found(one)["classes"].verdict == "warn"
    assert "only one class" in found(one)["classes"].what
    assert found(table(400, labels=labels))["classes"].verdict == "ok"


def _weighted(of, weights):
    training = msgspec.structs.replace(of.study.training, class_weights=weights)
    return dataclasses.replace(of, study=msgspec.structs.replace(of.study, training=training))


def test_class_weights_for_other_shares_are_found():
    y = (np.arange(1000) % 20 == 0).astype(np.int64)
    assert bad(_weighted(table(1000, y=y), (1.0, 19.0))) == {}
    assert bad(_weighted(table(1000, y=y), (1.0, 1.0)))["class weights"] == "warn"
    assert "class weights" not in found(table(1000, y=y))


def test_splits_of_different_classes_are_found():
    split = np.where(np.arange(1000) % 4 == 3, TEST, TRAIN).astype(np.uint8)
    y = np.where(split == TEST, np.arange(1000) % 8 == 3, np.arange(1000) % 10 == 0).astype(np.int64)
    assert bad(table(1000, y=y, split=split))["classes of the splits"] == "warn"


def test_an_auroc_is_that_of_all_pairs():
    generator = np.random.default_rng(5)
    score, positive = generator.integers(0, 9, 60).astype(float), generator.random(60) < 0.3
    pairs = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    assert auroc(score, positive) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("truth", "first", "second"), [(0.95, 20, 200), (0.95, 60, 60), (0.8, 15, 40), (0.95, 6, 6)])
def test_the_lower_limit_of_an_auroc_is_above_the_truth_in_about_one_of_a_hundred_samples(truth, first, second):
    from scipy.stats import norm

    generator, repeats = np.random.default_rng(7), 1500
    shift = np.sqrt(2) * norm.ppf(truth)
    positive = np.arange(first + second) < first
    above = 0
    for _ in range(repeats):
        score = generator.normal(size=first + second) + shift * positive
        above += auroc_lower(auroc(score, positive), first, second, 1) > truth
    assert above / repeats < 0.025


def test_a_perfect_auroc_of_few_patients_proves_little_and_of_many_much():
    assert auroc_lower(1.0, 8, 8, 50) < 0.75
    assert auroc_lower(1.0, 500, 500, 50) > 0.98
    assert auroc_lower(0.9, 50, 50, 1) > auroc_lower(0.9, 50, 50, 100)


def test_chance_and_shares():
    assert [most_by_chance(mean) for mean in (0.0, 1e-4, 1.0)] == [0, 0, 4]
    low, high = wilson(3, 10)
    assert 0.07 < low < 0.3 < high < 0.7
    assert wilson(0, 0) == (0.0, 1.0)
