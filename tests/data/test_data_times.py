"""Times of measurements in every form, the studies' grid as a file, and what falls outside it."""

import io

import numpy as np
import polars as pl
import pytest
from data_files import read, read_unlabelled, site, study_of

from fedmodels.data.load import load
from fedmodels.errors import DataError, FileError
from fedmodels.study_input import SeriesInput, Variable

INPUT = SeriesInput((Variable("HR", 0, 200),), steps=4)
SECRET = "Xsecret9"
DATED = """
kind = "series-long"
path = "m.csv"
time_unit = "datetime"
outcomes = "o.csv"
[split]
test_fraction = 0.5
"""
OUTCOMES = "patient,label,admission\na,absent,2024-01-31 22:30\n"


def row(when):
    return f"patient,time,variable,value\na,{when},HR,100\n"


@pytest.mark.parametrize(
    ("when", "admission"),
    [
        ("2024-02-01 00:00", "2024-01-31 22:30"),
        ("2024-02-01T00:00:00.5", "2024-01-31T22:30:00"),
        ("2024-02-01", "2024/01/31 22:30:10"),
        ("2024-02-01 00:00+00:00", "2024-02-01 06:30:00+08:00"),
        ("2024-02-01T00:00:00Z", "2024-01-31T22:30:00Z"),
    ],
)
def test_dates_count_from_the_patients_admission(tmp_path, when, admission):
    outcomes = OUTCOMES.replace("2024-01-31 22:30", admission)
    data = read(tmp_path, INPUT, DATED, m__csv=row(when), o__csv=outcomes)
    assert data.x[0, :, 1].tolist() == [0, 1, 0, 0]


def test_parquet_keeps_dates_and_numbers_as_a_csv_would(tmp_path):
    frame = pl.read_csv(io.StringIO(row("2024-02-01 00:00:00")), try_parse_dates=True)
    assert frame.schema["time"] == pl.Datetime("us")
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    binding = DATED.replace("m.csv", "m.parquet")
    data = read(tmp_path, INPUT, binding, m__parquet=buffer.getvalue(), o__csv=OUTCOMES)
    assert data.x[0, :, 1].tolist() == [0, 1, 0, 0]


NEW = """
kind = "series-long"
path = "m.csv"
time_unit = "datetime"
admissions = "adm.csv"
[columns]
admission = "in"
"""


def test_a_file_of_admissions_stands_beside_outcomes_or_alone(tmp_path):
    admissions = "patient,in\na,2024-01-31\nb,2024-01-31\n"
    data = read_unlabelled(tmp_path, INPUT, NEW, m__csv=row("2024-01-31 01:00"), adm__csv=admissions)
    assert data.x[0, :, 1].tolist() == [0, 1, 0, 0]
    # A change of the admissions alone is a change of the records.
    later = admissions.replace("a,2024-01-31", "a,2024-01-30 23:00")
    (tmp_path / "adm.csv").write_text(later)
    assert load(tmp_path / "data.toml", study_of(INPUT), labelled=False).x[0, :, 1].tolist() == [0, 0, 1, 0]
    with pytest.raises(DataError, match="1 patients with measurements are not listed") as caught:
        read_unlabelled(tmp_path, INPUT, NEW, m__csv=row("2024-01-31") + f"{SECRET},2024-01-31,HR,1\n", adm__csv=later)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("measured", "outcomes", "named"),
    [
        (row("31.01.2024 23:00"), OUTCOMES, "column `time`: 1 of 1 rows are not dates or times such as"),
        (row("02/01/2024"), OUTCOMES, "column `time`: 1 of 1 rows are not dates"),
        (row("20240201"), OUTCOMES, "column `time`: 1 of 1 rows are not dates"),
        (row("90"), OUTCOMES, "column `time`: 1 of 1 rows are not dates"),
        (row("2024-02-30"), OUTCOMES, "column `time`: 1 of 1 rows are not dates"),
        (row(SECRET), OUTCOMES, "column `time`: 1 of 1 rows are not dates"),
        (row("2024-02-01"), OUTCOMES.replace("2024-01-31 22:30", ""), "column `admission`: 1 of 1 rows are not dates"),
        (row("2024-02-01"), OUTCOMES.replace("admission", "begin"), "no column `admission`"),
        (row("2024-02-01"), OUTCOMES + "a,absent,2024-01-31\n", "1 of 2 rows repeat a patient"),
        (row("2024-02-01 00:00Z"), OUTCOMES, "column `time` names a time zone, column `admission` of o.csv does not"),
        (row("2024-02-01 00:00Z") + "a,2024-02-01,HR,1\n", OUTCOMES, "some times name a time zone, some do not"),
    ],
)
def test_dates_of_another_form_are_refused_without_quoting_them(tmp_path, measured, outcomes, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, DATED, m__csv=measured, o__csv=outcomes)
    assert named in str(caught.value)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("when", ["2024-02-01 00:00", "2024/2/1", "31.01.2024", "1/31/2024 7:30"])
def test_dates_where_numbers_are_declared_are_named_with_the_way_to_declare_them(tmp_path, when):
    binding = DATED.replace('time_unit = "datetime"\n', "")
    with pytest.raises(DataError, match="column `time`: 1 of 1 rows are dates, not numbers") as caught:
        read(tmp_path, INPUT, binding, m__csv=row(when), o__csv=OUTCOMES)
    assert 'time_unit = "datetime"' in caught.value.fix


@pytest.mark.parametrize(
    ("binding", "named"),
    [
        (DATED.replace('outcomes = "o.csv"\n', "").partition("[split]")[0], "needs dates of admission"),
        (NEW.replace('time_unit = "datetime"\n', ""), "`admissions` is for"),
    ],
)
def test_dates_need_admissions_and_admissions_dates(tmp_path, binding, named):
    with pytest.raises(FileError, match=named):
        read(tmp_path, INPUT, binding)


LONG = DATED.replace('time_unit = "datetime"\n', "")


def test_what_lies_outside_the_grid_is_left_out_and_counted(tmp_path):
    rows = "".join(f"a,{minute},HR,100\n" for minute in (-0.5, -600, 0, 240, 241)) + "a,-1,Unheard,3\nb,500,HR,1\n"
    outcomes = "patient,label\na,absent\nb,disease\n"
    data = read(tmp_path, INPUT, LONG, m__csv=f"patient,time,variable,value\n{rows}", o__csv=outcomes)
    assert data.x[:, :, 1].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    assert data.notes == (
        "of 6 measurements, 2 before admission and 2 after the 4 hours of the study's grid were left out",
        "1 of 2 patients have no measurement of the study's variables on its grid",
    )


def test_measurements_at_the_same_minute_count_with_their_mean(tmp_path):
    rows = "patient,time,variable,value\n" + "a,5,HR,80\na,5,HR,100\na,5,HR,120\n"
    data = read(tmp_path, INPUT, LONG, m__csv=rows, o__csv="patient,label\na,absent\n")
    assert data.x[0, :, 0].tolist() == [0.5] * 4


# --- the grid as a file ---------------------------------------------------------------------------------------------

WIDE = SeriesInput(
    (Variable("HR", 0, 200), Variable("K", 0, 10)), steps=3, step_minutes=0.1, statics=(Variable("Age", 0, 100),)
)
GRID = 'kind = "series-grid"\npath = "g.csv"\noutcomes = "o.csv"\n[split]\ntest_fraction = 0.5\n'
CELLS = "patient,step,HR,K,Age,other\na,0,50,,40,x\na,2,100,5,,x\nb,1,,2.5,,x\nb,3,100,1,,x\n"
LABELS = "patient,label\nb,absent\na,disease\n"


def test_a_grid_is_read_as_the_same_measurements_in_long_form_are(tmp_path):
    data = read(tmp_path, WIDE, GRID, g__csv=CELLS, o__csv=LABELS)
    rows = "a,0.05,HR,50\na,0,Age,40\na,0.25,HR,100\na,0.25,K,5\nb,0.15,K,2.5\nb,0.35,HR,100\nb,0.35,K,1\n"
    long = read(tmp_path, WIDE, LONG, m__csv=f"patient,time,variable,value\n{rows}", o__csv=LABELS)
    assert np.array_equal(data.x, long.x)
    assert data.lengths.tolist() == long.lengths.tolist() == [2, 3]
    assert data.patients.tolist() == ["b", "a"]
    assert data.notes == long.notes
    assert "0 before admission and 2 after" in data.notes[0]


def test_every_step_of_a_long_grid_stays_in_its_place(tmp_path):
    # 0.1 minutes have no exact form: 3 * 0.1 / 0.1 is below 3 in some orders of rounding.
    steps = 2000
    input_ = SeriesInput((Variable("HR", 0, steps),), steps=steps, step_minutes=0.1)
    cells = "patient,step,HR\n" + "".join(f"a,{step},{step}\n" for step in range(steps))
    data = read(tmp_path, input_, GRID, g__csv=cells, o__csv="patient,label\na,absent\n")
    assert data.x[0, :, 0].tolist() == [np.float32(step / steps) for step in range(steps)]


def test_a_grid_needs_no_outcomes_and_knows_units_and_missing_values(tmp_path):
    input_ = SeriesInput((Variable("Temp", 30, 43, "C"),), steps=2)
    binding = (
        'kind = "series-grid"\npath = "g.csv"\nmissing = ["", "-"]\nunits = { Temp = "F" }\n[columns]\nstep = "hour"\n'
    )
    data = read_unlabelled(tmp_path, input_, binding, g__csv="patient,hour,Temp\na,0,98.6\na,1,-\n")
    assert data.x[0].tolist() == [[pytest.approx(7 / 13), 1, 0], [pytest.approx(7 / 13), 0, 0.5]]


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        (CELLS.replace(",K,", ",Kalium,"), "no column `K`"),
        (CELLS.replace("step", "hour"), "no column `step`"),
        (CELLS.replace("a,2,", "a,0,"), "1 of 4 rows repeat a patient's step"),
        (CELLS.replace("a,2,", "a,0.0,"), "1 of 4 rows repeat a patient's step"),
        (CELLS.replace("a,2,", "a,2.5,"), "column `step`: 1 of 4 rows are not whole numbers"),
        (CELLS.replace("a,2,", f"a,{SECRET},"), "column `step`: 1 of 4 rows are not numbers"),
        (CELLS.replace("100,5", f"{SECRET},5"), "column `HR`: 1 of 4 rows are not numbers"),
        (CELLS.replace("100,5", "NaN,5"), "column `HR`: 1 of 4 rows are nan or infinite"),
        (CELLS.replace("b,1,,2.5", "b,1,,").replace("b,3,100,1", "b,3,,"), "1 of 2 patients have no measurement"),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path, cells, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, WIDE, GRID, g__csv=cells, o__csv=LABELS)
    assert named in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_grids_and_tables_do_not_fit_each_others_studies(tmp_path):
    with pytest.raises(DataError, match="kind `table`, the study's input has modality `series`"):
        load(
            site(tmp_path, 'kind = "table"\npath = "g.csv"\n[columns]\npatient = "p"\n', g__csv=CELLS),
            study_of(WIDE),
            labelled=False,
        )
