"""The example studies on the real public data: the counts that the publications give."""

import time

import numpy as np
import pytest
from data_files import STUDIES, public_data

from fedmodels.data.binding import read_binding, sources
from fedmodels.data.csvfile import read_csv
from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.data.features import feature_count, feature_names
from fedmodels.data.load import load
from fedmodels.study import parse_study


def _study(name):
    return parse_study((STUDIES / name / "study.toml").read_text(encoding="utf-8"))


def _sizes(data):
    return len(data.part(TRAIN)), len(data.part(TEST))


HEART = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


@pytest.mark.parametrize("site", HEART)
def test_heart_disease_has_flambys_patients_in_flambys_split(site):
    folder = public_data("heart_disease")
    study = _study("heart_disease")
    data = load(STUDIES / "heart_disease" / "sites" / f"{site}.toml", study)
    assert _sizes(data) == HEART[site]
    assert data.x.shape[1] == feature_count(study.input) == 28
    listed = read_csv(folder / "flamby_split.csv", "utf-8")
    wanted = {(s, r): (w, y) for s, _, r, w, y in listed.rows()}
    words = {TRAIN: "train", TEST: "test"}
    for patient, split, y in zip(data.patients, data.split, data.y, strict=True):
        assert wanted[site, patient] == (words[int(split)], str(y))
    missing = [number for number, name in enumerate(feature_names(study.input)) if name.endswith("(missing)")]
    assert not data.x[:, missing].any()


def test_heart_disease_has_920_rows_of_which_740_are_used():
    folder = public_data("heart_disease")
    rows = 0
    for site in HEART:
        binding = read_binding(STUDIES / "heart_disease" / "sites" / f"{site}.toml")
        assert sources(binding)[0] == folder / f"processed.{site}.data"
        rows += len(read_csv(sources(binding)[0], binding.encoding, binding.header))
    assert rows == 920
    assert sum(map(sum, HEART.values())) == 740


def test_icu_mortality_has_4000_stays_554_deaths_in_four_units():
    public_data("physionet2012")
    study = _study("icu_mortality")
    sizes, deaths, patients = {}, 0, set()
    for path in sorted((STUDIES / "icu_mortality" / "sites").glob("*.toml")):
        started = time.perf_counter()
        data = load(path, study)
        assert time.perf_counter() - started < 15
        sizes[path.stem] = len(data)
        deaths += int(data.y.sum())
        patients |= set(data.patients.tolist())
        assert data.x.shape[1:] == (48, 37 * 3 + 4 * 2)
        assert np.isfinite(data.x).all()
        assert (data.x.min(), data.x.max()) == (0, 1)
        assert 0.1 < len(data.part(TEST)) / len(data) < 0.3
        assert data.lengths.min() >= 1
    assert sizes == {"coronary": 577, "cardiac-surgery": 874, "medical": 1481, "surgical": 1068}
    assert len(patients) == 4000
    assert deaths == 554


def test_pneumonia_has_5232_images_in_the_published_classes():
    public_data("pneumoniamnist")
    data = load(STUDIES / "pneumonia" / "data.toml", _study("pneumonia"))
    assert data.x.shape == (5232, 1, 28, 28)
    assert np.bincount(data.part(TRAIN).y).tolist() == [1214, 3494]
    assert np.bincount(data.part(TEST).y).tolist() == [135, 389]


def test_chinese_triage_has_questions_of_all_eleven_departments():
    folder = public_data("zh_internal_medicine")
    study = _study("chinese_triage")
    data = load(STUDIES / "chinese_triage" / "data.toml", study)
    departments = read_csv(folder / "zh_internal_medicine_train.csv", "utf-8")["department"].to_list()
    assert len(data) == len(departments) == 5789
    assert [study.study.labels[y] for y in data.y] == departments
    assert len(set(departments)) == 11
    assert data.lengths.min() >= 1
