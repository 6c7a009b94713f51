"""`data check` on the real public data: what is known to be in them is found, and genuine columns raise no alarm."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from data_files import STUDIES, public_data

from fedmodels.data.checks.finding import Finding
from fedmodels.data.checks.run import examine
from fedmodels.data.csvfile import read_csv
from fedmodels.data.physionet2012 import read_stays
from fedmodels.study import Study, parse_study
from fedmodels.study_input import SeriesInput, Variable


def _study(name: str) -> Study:
    return parse_study((STUDIES / name / "study.toml").read_text(encoding="utf-8"))


def _found(binding: Path, study: Study) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(binding, study, lambda what, done, total: None).findings}


def _bad(name: str, data_set: str, binding: str = "data") -> dict[str, str]:
    public_data(data_set)
    found = _found(STUDIES / name / f"{binding}.toml", _study(name))
    assert len(found) > 7
    return {finding.name: finding.verdict for finding in found.values() if finding.verdict != "ok"}


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ("cleveland", set()),
        ("hungarian", {"split"}),
        # A quarter have a cholesterol of 0, and one patient is in the file twice, also with the columns not used here.
        ("va", {"split", "codes for not known", "duplicates", "duplicates across splits"}),
        ("switzerland", {"split", "classes", "constant"}),  # all have one; no training patient is healthy
    ],
)
def test_heart_disease_has_the_faults_that_are_known_of_it_and_no_leak(site, said):
    found = _bad("heart_disease", "heart_disease", f"sites/{site}")
    assert found == dict.fromkeys(said, "warn")


def test_pneumoniamnist_has_28_pairs_of_equal_images_and_no_near_duplicates():
    assert _bad("pneumonia", "pneumoniamnist") == dict.fromkeys(("duplicates", "duplicates across splits"), "warn")
    duplicates = _found(STUDIES / "pneumonia" / "data.toml", _study("pneumonia"))["duplicates"]
    assert sum(len(group) * (len(group) - 1) // 2 for group in duplicates.groups) == 28
    with np.load(public_data("pneumoniamnist") / "pneumoniamnist_trainval.npz") as arrays:
        images = np.concatenate([arrays["train_images"], arrays["val_images"]])
    assert all((images[group] == images[group[0]]).all() for group in duplicates.groups)


def test_chinese_questions_were_asked_twice():
    found = _bad("chinese_triage", "zh_internal_medicine")
    # And some are longer than the study reads.
    assert found == dict.fromkeys(("split", "reading", "near duplicates", "near duplicates across splits"), "warn")


def test_a_coronary_unit_raises_no_alarm():
    assert _bad("icu_mortality", "physionet2012", "sites/coronary") == {}


def test_outcomes_of_the_stay_are_refused_as_inputs_of_the_original_files():
    public_data("physionet2012")
    study = _study("icu_mortality")
    planted = msgspec.structs.replace(study.input, statics=(Variable("SAPS-I", 0, 34),))
    (finding,) = _found(
        STUDIES / "icu_mortality/sites/coronary.toml", msgspec.structs.replace(study, input=planted)
    ).values()
    assert (finding.name, finding.verdict) == ("schema", "fail")
    assert "SAPS-I as input, which is only known after the stay" in finding.what


def test_outcomes_of_the_stay_are_flagged_in_an_export_of_ones_own(tmp_path):
    folder = public_data("physionet2012")
    names = ["SAPS-I", "Length_of_stay", "Survival"]
    stays = read_stays(folder / "set-a.tar.gz")[0].filter(pl.col("variable") == "HR")
    outcomes = read_csv(folder / "Outcomes-a.txt", "utf-8").rename(
        {"RecordID": "patient", "In-hospital_death": "label"}
    )
    outcomes = outcomes.filter(pl.col("patient").is_in(stays["patient"].implode()))
    late = outcomes.select("patient", *names).unpivot(index="patient").filter(pl.col("value") != "-1")
    late = late.with_columns(pl.lit(0.0).alias("minutes"), pl.col("value").cast(pl.Float64))
    columns = ["patient", "variable", "minutes", "value"]
    rows = pl.concat([stays.select(columns), late.select(columns)]).rename({"minutes": "time"})
    rows.write_csv(tmp_path / "long.csv")
    outcomes.write_csv(tmp_path / "outcomes.csv")
    (tmp_path / "data.toml").write_text(
        'kind = "series-long"\npath = "long.csv"\noutcomes = "outcomes.csv"\n'
        '[labels]\n0 = "survived"\n1 = "died"\n[split]\ntest_fraction = 0.2\n'
    )
    late_input = SeriesInput((Variable("HR", 40, 150),), 48, statics=tuple(Variable(n, 0, 2700) for n in names))
    found = _found(tmp_path / "data.toml", msgspec.structs.replace(_study("icu_mortality"), input=late_input))
    assert found["leakage: names"].verdict == "warn"
    assert all(name in found["leakage: names"].what for name in names)
    assert found["leakage"].what.startswith("one feature alone predicts the label: Survival: AUROC 0.97")
    assert found["near duplicates"].verdict == "ok"
    assert "Survival (measured or not)" in found["missingness and label"].what
