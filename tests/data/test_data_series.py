import io
import tarfile

import numpy as np
import pytest
from data_files import read, read_unlabelled, site, study_of
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.dataset import TEST
from fedmodels.data.features import feature_count, feature_names
from fedmodels.data.load import load
from fedmodels.data.series import Points, grid
from fedmodels.errors import DataError
from fedmodels.study_input import SeriesInput, Variable

INPUT = SeriesInput((Variable("HR", 0, 200), Variable("K", 0, 10)), steps=4, statics=(Variable("Age", 0, 100),))
LONG = """
kind = "series-long"
path = "m.csv"
outcomes = "o.csv"
[labels]
0 = "absent"
1 = "disease"
[split]
test_fraction = 0.5
"""
MEASURED = """patient,time,variable,value
a,70,HR,150
a,0,Age,50
a,65,HR,50
a,-5,HR,10
a,240,K,20
a,241,K,1
a,20,Unheard,9
b,0,Age,40
"""
OUTCOMES = "patient,label\nb,0\na,1\n"
SECRET = "Xsecret9"


def test_the_grid_holds_value_mask_and_time_since_for_each_variable_then_statics(tmp_path):
    data = read(tmp_path, INPUT, LONG, m__csv=MEASURED, o__csv=OUTCOMES)
    assert feature_names(INPUT) == (
        *("HR (value)", "HR (measured)", "HR (hours since)", "K (value)", "K (measured)", "K (hours since)"),
        *("Age (value)", "Age (missing)"),
    )
    assert feature_count(INPUT) == data.x.shape[2]
    assert data.patients.tolist() == ["b", "a"]
    assert data.x[0].tolist() == [[0.5, 0, 1, 0.5, 0, 1, np.float32(0.4), 0]] * 4
    # HR: mean of 0.75 and 0.25 in hour 1, carried on; K: clipped to its range, at the horizon, so in the last step.
    assert data.x[1].tolist() == [
        [0.5, 0, 1, 0.5, 0, 1, 0.5, 0],
        [0.5, 1, 0, 0.5, 0, 1, 0.5, 0],
        [0.5, 0, 0.25, 0.5, 0, 1, 0.5, 0],
        [0.5, 0, 0.5, 1, 1, 0, 0.5, 0],
    ]
    assert data.lengths.tolist() == [1, 4]
    assert data.y.tolist() == [0, 1]
    assert data.x.dtype == np.float32


def test_an_unknown_static_is_the_middle_of_its_range_and_flagged_and_the_earliest_one_counts(tmp_path):
    rows = MEASURED.replace("b,0,Age,40", "b,0,HR,80").replace("a,0,Age,50", "a,60,Age,50\na,0,Age,20")
    data = read(tmp_path, INPUT, LONG, m__csv=rows, o__csv=OUTCOMES)
    assert data.x[:, 0, 6:].tolist() == [[0.5, 1], [np.float32(0.2), 0]]


points = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 1), st.floats(0, 1)), max_size=40)


@given(points)
def test_the_grid_equals_a_walk_through_the_hours(rows):
    input_ = SeriesInput((Variable("A", 0, 1), Variable("B", 0, 1)), steps=5)
    columns = [np.array([row[i] for row in rows], dtype=np.int64 if i < 3 else np.float64) for i in range(4)]
    x, lengths = grid(Points(*columns), 3, input_)
    for patient in range(3):
        mine = [row for row in rows if row[0] == patient]
        assert lengths[patient] == max((row[1] + 1 for row in mine), default=1)
        for variable in range(2):
            value, since = 0.5, None
            for step in range(5):
                now = [row[3] for row in mine if row[1] == step and row[2] == variable]
                since = 0 if now else (None if since is None else since + 1)
                value = sum(now) / len(now) if now else value
                expected = [value, bool(now), 1.0 if since is None else since / 5]
                np.testing.assert_allclose(x[patient, step, 3 * variable : 3 * variable + 3], expected, atol=1e-6)


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(random):
    rows = [(0, step, 0, step / 10) for step in (0, 0, 1, 3, 3)]
    shuffled = random.sample(rows, len(rows))
    results = []
    for order in (rows, shuffled):
        columns = [np.array([row[i] for row in order], dtype=np.int64 if i < 3 else np.float64) for i in range(4)]
        results.append(grid(Points(*columns), 1, INPUT)[0])
    np.testing.assert_allclose(*results)


@pytest.mark.parametrize(("unit", "time"), [("minutes", "90"), ("hours", "1.5"), ("hh:mm", "01:30")])
def test_times_are_read_in_the_unit_that_the_binding_names(tmp_path, unit, time):
    rows = f"patient,time,variable,value\na,{time},HR,100\n"
    binding = f'time_unit = "{unit}"\n{LONG}'
    data = read(tmp_path, INPUT, binding, m__csv=rows, o__csv="patient,label\na,0\n")
    assert data.x[0, :, 1].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("measured", "outcomes", "named"),
    [
        (MEASURED.replace("150", SECRET), OUTCOMES, "column `value`: 1 of 8 rows are not numbers"),
        (MEASURED.replace("70,", f"{SECRET},"), OUTCOMES, "column `time`: 1 of 8 rows are not numbers"),
        (MEASURED.replace("time", "when"), OUTCOMES, "no column `time`"),
        (MEASURED, OUTCOMES.replace("label", "died"), "no column `label`"),
        (MEASURED, OUTCOMES + "a,1\n", "column `patient`: 1 of 3 rows repeat a patient"),
        (MEASURED, OUTCOMES + "a,0\n", "1 patients with different labels"),
        (MEASURED, OUTCOMES + f"{SECRET},0\n", "1 of 3 patients have no measurement"),
        (MEASURED.replace("HR", "Puls").replace("K,", "Kalium,"), OUTCOMES, "none of the study's 2 variables occurs"),
    ],
)
def test_bad_measurements_and_outcomes_are_refused_without_quoting_them(tmp_path, measured, outcomes, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, LONG, m__csv=measured, o__csv=outcomes)
    assert named in str(caught.value)
    assert SECRET not in repr(caught.value)


NEW = 'kind = "series-long"\npath = "m.csv"\n'


def test_measurements_need_no_outcomes_and_list_the_patients_themselves(tmp_path):
    labelled = read(tmp_path, INPUT, LONG, m__csv=MEASURED, o__csv="patient,label\na,0\nb,1\n")
    data = read_unlabelled(tmp_path, INPUT, NEW, m__csv=MEASURED)
    assert data.patients.tolist() == ["a", "b"]
    assert np.array_equal(data.x, labelled.x)
    assert data.lengths.tolist() == labelled.lengths.tolist()
    assert data.split.tolist() == [TEST, TEST]
    filtered = read_unlabelled(tmp_path, INPUT, NEW + 'where = { Age = "50.0" }\n', m__csv=MEASURED)
    assert filtered.patients.tolist() == ["a"]


def test_a_patient_whose_every_value_is_missing_is_not_left_out_in_silence(tmp_path):
    with pytest.raises(DataError, match="1 of 3 patients have no measurement"):
        load(site(tmp_path, NEW, m__csv=MEASURED + f"{SECRET},5,HR,\n"), study_of(INPUT), labelled=False)


STAY = "Time,Parameter,Value\n00:00,RecordID,{id}\n00:00,Age,{age}\n00:00,ICUType,{icu}\n01:30,HR,100\n02:00,K,-1\n"
PHYSIONET = """
kind = "series-physionet2012"
path = "{path}"
outcomes = "o.txt"
[labels]
0 = "absent"
1 = "disease"
[where]
ICUType = "2"
[split]
test_fraction = 0.5
"""
STAYS = {f"{i}.txt": STAY.format(id=i, age=age, icu=icu) for i, age, icu in ((1, 30, 1), (2, -1, 2), (3, 60, 2))}
PHYSIONET_OUTCOMES = "RecordID,SAPS-I,In-hospital_death\n1,6,0\n2,6,0\n3,6,1\n"


def _archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"set-a/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("packed", [True, False])
def test_physionet_stays_are_read_from_a_folder_or_archive_and_filtered_by_unit(tmp_path, packed):
    files = {"a__tgz": _archive(STAYS)} if packed else {}
    (tmp_path / "stays").mkdir()
    for name, text in STAYS.items():
        (tmp_path / "stays" / name).write_text(text)
    binding = PHYSIONET.format(path="a.tgz" if packed else "stays")
    data = read(tmp_path, INPUT, binding, o__txt=PHYSIONET_OUTCOMES, **files)
    assert data.patients.tolist() == ["2", "3"]
    assert data.y.tolist() == [0, 1]
    assert data.x[0].tolist()[0][6:] == [0.5, 1]
    assert data.x[1, :, 1].tolist() == [0, 1, 0, 0]
    assert data.x[:, :, 4].sum() == 0, "-1 means not known"


def test_physionet_stays_need_no_outcomes(tmp_path):
    binding = PHYSIONET.format(path="a.tgz").replace('outcomes = "o.txt"\n', "").partition("[split]")[0]
    data = read_unlabelled(tmp_path, INPUT, binding, a__tgz=_archive(STAYS))
    assert data.patients.tolist() == ["2", "3"]
    assert data.x[1, :, 1].tolist() == [0, 1, 0, 0]
    assert data.split.tolist() == [TEST, TEST]
    stays = _archive(STAYS | {"4.txt": "Time,Parameter,Value\n"})
    path = site(tmp_path, binding.replace('ICUType = "2"', ""), a__tgz=stays)
    with pytest.raises(DataError, match="1 of 4 patients have no measurement"):
        load(path, study_of(INPUT), labelled=False)


@pytest.mark.parametrize("name", ["SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death", "RecordID"])
def test_an_outcome_of_the_stay_is_never_a_feature(tmp_path, name):
    input_ = SeriesInput((Variable("HR", 0, 200),), steps=4, statics=(Variable(name, 0, 100),))
    with pytest.raises(DataError, match=name):
        read(tmp_path, input_, PHYSIONET.format(path="a.tgz"), a__tgz=_archive(STAYS), o__txt=PHYSIONET_OUTCOMES)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"nothing", "is not a whole tar archive"),
        (_archive(STAYS)[:-60], "is not a whole tar archive"),
        (_archive({}), "holds no stay"),
        (_archive({"1.txt": STAYS["1.txt"] + "05:00,HR\n"}), "1 of 1 stays do not have three cells"),
        (_archive({"1.txt": STAYS["1.txt"] + "5 h,HR,3\n"}), "1 of 6 times are not hours:minutes"),
    ],
)
def test_a_broken_archive_of_stays_is_refused(tmp_path, content, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, PHYSIONET.format(path="a.tgz"), a__tgz=content, o__txt=PHYSIONET_OUTCOMES)
    assert named in str(caught.value)
