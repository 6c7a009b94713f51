"""Features that give the label away: planted ones are found, genuine ones are not, whatever their number."""

import numpy as np
import pytest
from check_subjects import IMAGE, SERIES, TEXT, bad, found, pictures, series, subject, table, texts

from fedmodels.data.checks.source import Source
from fedmodels.study_input import Column, SeriesInput, TableInput, Variable

Y = np.arange(400) // 2 % 2


def test_a_column_that_is_the_label_with_a_little_noise_is_a_failure():
    noise = np.random.default_rng(1).random(400)
    planted = found(table(400, values=0.45 * Y + 0.5 * noise))["leakage"]
    assert planted.verdict == "fail"
    assert planted.what.startswith("one feature alone predicts the label: a: AUROC 0.9")
    assert found(table(400, values=0.45 - 0.45 * Y + 0.5 * noise))["leakage"].verdict == "fail"  # the other way round


@pytest.mark.parametrize("seed", range(10))
def test_a_strong_but_genuine_column_among_noise_is_none(seed):
    generator = np.random.default_rng(seed)
    values = (generator.normal(size=400) + 2.0 * Y + 4) / 12  # AUROC 0.92
    strong = found(table(400, values=values))["leakage"]
    assert strong.verdict == "ok"
    assert strong.numbers["auroc"] > 0.87


def test_a_perfect_column_of_a_dozen_patients_is_not_yet_proof():
    y = np.arange(12) % 2
    assert found(table(12, values=y.astype(float), y=y))["leakage"].verdict == "ok"


def test_repeated_records_of_a_patient_are_no_more_proof():
    y = np.repeat(np.arange(12) % 2, 100)
    patients = np.repeat(np.arange(12).astype(str), 100)
    many = table(1200, values=y.astype(float), y=y, patients=patients, split=np.zeros(1200, dtype=np.uint8))
    assert found(many)["leakage"].verdict == "ok"


def test_a_value_that_is_there_for_one_class_is_found_by_its_absence():
    values = np.where((Y == 1) | (np.arange(400) % 10 == 0), np.random.default_rng(1).random(400), np.nan)
    planted = found(table(400, values=values))
    assert planted["missingness and label"].verdict == "warn"
    assert "a (measured or not)" in planted["missingness and label"].what
    anyhow = np.where(np.random.default_rng(2).random(400) < 0.5, 0.3, np.nan)
    assert found(table(400, values=anyhow))["missingness and label"].verdict == "ok"


def test_a_category_that_is_the_label_is_found():
    input_ = TableInput((Column("ward", "category", values=("1", "2", "3")),))
    cells = np.where(Y == 1, 2, np.arange(400) % 2)
    x = np.zeros((400, 4), dtype=np.float32)
    x[np.arange(400), cells] = 1
    assert "ward = 3" in found(subject(input_, x))["leakage"].what
    assert bad(subject(input_, x))["leakage"] == "fail"


@pytest.mark.parametrize("where", ["last", "static", "measured"])
def test_a_series_that_carries_the_outcome_is_found(where):
    x = series(400)
    assert found(subject(SERIES, x, lengths=np.full(400, 24)))["leakage"].verdict == "ok"
    if where == "last":
        x[:, -1, 0] = 0.2 + 0.5 * Y
    elif where == "static":
        x[..., 6] = 0.2 + 0.5 * Y[:, None]
    else:
        x[Y == 0, :, 4] = 0
    said = found(subject(SERIES, x, lengths=np.full(400, 24)))["leakage"]
    assert said.verdict == "fail"
    assert {"last": "HR (last value)", "static": "Age", "measured": "Lactate (measured or not)"}[where] in said.what


def test_a_length_that_stops_at_death_is_found():
    said = found(subject(SERIES, series(400), lengths=np.where(Y == 1, 10, 24)))["leakage"]
    assert (said.verdict, "length of the series" in said.what) == ("fail", True)


def test_a_marker_burned_into_a_corner_is_found():
    x = pictures(400)
    assert found(subject(IMAGE, x))["leakage"].verdict == "ok"
    x[Y == 1, :, 1:4, 1:4] = 255
    said = found(subject(IMAGE, x))["leakage"]
    assert said.verdict == "fail"
    assert "brightest pixel of the top left corner" in said.what


def test_a_word_of_one_class_is_told_by_its_number():
    x, lengths = texts(1600)
    assert found(subject(TEXT, x, lengths=lengths))["leakage"].verdict == "ok"
    x[np.arange(1600) // 2 % 2 == 1, 0] = 7777
    said = found(subject(TEXT, x, lengths=lengths))["leakage"]
    assert (said.verdict, "one word (token 7777)" in said.what) == ("warn", True)


def test_the_class_of_several_that_is_given_away_is_named():
    y = np.arange(600) % 3
    said = found(table(600, values=(y == 1) * 0.9, y=y, labels=("absent", "mild", "severe")))["leakage"]
    assert (said.verdict, "a for mild" in said.what) == ("fail", True)


def test_names_of_what_is_known_only_afterwards_are_told():
    names = ("Length_of_stay", "SAPS-I", "Survival", "discharge_ward", "icd_code", "date of death", "los")
    input_ = SeriesInput((Variable("HR", 0, 1),), 24, statics=tuple(Variable(name, 0, 1) for name in names))
    x = np.concatenate([series(100)[..., :3], np.tile([0.5, 1], (100, 24, len(names)))], axis=2).astype(np.float32)
    assert found(subject(input_, x, lengths=np.full(100, 24)))["leakage: names"].numbers["features"] == len(names)
    plain = ("age", "sex", "cp", "trestbps", "chol", "glucose", "closest_hospital", "Platelets", "TroponinI", "slope")
    table_of = TableInput(tuple(Column(name, low=0, high=1) for name in plain))
    wide = np.zeros((100, 20), dtype=np.float32)
    assert "leakage: names" not in found(subject(table_of, wide))


def test_a_column_that_the_binding_reads_as_the_label_must_not_be_an_input():
    bound = table(source=Source(np.arange(1, 201), bound=frozenset({"a", "who"})))
    assert bad(bound)["leakage: bound columns"] == "fail"
    assert "`a`" not in found(bound)["leakage"].what


def test_a_category_of_which_many_values_mean_the_label_is_found_as_a_whole():
    codes = tuple(f"I{number}" for number in range(10))
    input_ = TableInput((Column("finding", "category", values=codes),))
    cells = np.random.default_rng(11).integers(0, 5, 400) + 5 * Y
    x = np.zeros((400, 11), dtype=np.float32)
    x[np.arange(400), cells] = 1
    said = found(subject(input_, x))["leakage"]
    assert (said.verdict, "label: finding: AUROC" in said.what) == ("fail", True)
    x = np.zeros((400, 11), dtype=np.float32)
    x[np.arange(400), np.random.default_rng(12).integers(0, 10, 400)] = 1
    assert found(subject(input_, x))["leakage"].numbers["auroc"] < 0.65
