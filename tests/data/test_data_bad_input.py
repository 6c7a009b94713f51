"""What hospitals really have, and how it ends: each with a named error or as the documentation says."""

import numpy as np
import pytest
from data_files import read, read_unlabelled

from fedmodels.errors import DataError
from fedmodels.study_input import Column, SeriesInput, TableInput, TextInput, Variable

TABLE = TableInput((Column("age", low=0, high=100),))
ROWS = 'kind = "table"\npath = "t.csv"\n[columns]\npatient = "who"\nlabel = "label"\n[split]\ntest_fraction = 0.5\n'
TEXT = ROWS.replace("table", "text").replace("[split]", 'text = ["note"]\n[split]')
SERIES = SeriesInput((Variable("HR", 0, 200),), steps=48)
LONG = 'kind = "series-long"\npath = "m.csv"\noutcomes = "o.csv"\n[split]\ntest_fraction = 0.5\n'
STAYS = 'kind = "series-physionet2012"\npath = "."\n'


def test_records_of_one_class_alone_are_a_skewed_hospital_and_not_an_error(tmp_path):
    data = read(tmp_path, TABLE, ROWS, t__csv="who,age,label\na,1,disease\nb,2,disease\n")
    assert data.y.tolist() == [1, 1]


def test_one_patient_with_ten_thousand_rows_is_one_patient(tmp_path):
    rows = "".join(f"a,{i % 100},disease\n" for i in range(10_000))
    data = read(tmp_path, TABLE, ROWS, t__csv=f"who,age,label\n{rows}b,1,absent\n")
    assert len(data) == 10_001
    assert len(np.unique(data.patients)) == 2
    assert len(np.unique(data.split[:10_000])) == 1
    rows = "".join(f"a,{i / 10},HR,{i % 100}\n" for i in range(10_000))
    series = read(
        tmp_path, SERIES, LONG, m__csv=f"patient,time,variable,value\n{rows}", o__csv="patient,label\na,absent\n"
    )
    assert series.x.shape == (1, 48, 3)
    np.testing.assert_allclose(series.x[0, :16, 0], 49.5 / 200, rtol=1e-6)


def test_a_text_of_a_hundred_thousand_words_is_cut(tmp_path):
    data = read(tmp_path, TextInput(max_tokens=8), TEXT, t__csv=f"who,label,note\na,absent,{'fever ' * 20_000}\n")
    assert data.x.shape == (1, 8)


def test_a_million_measurements_are_read_whole(tmp_path):
    count, patients = 1_000_000, 20_000
    rows = "".join(f"p{i % patients},{i // patients * 60},HR,{i % 7}\n" for i in range(count))
    outcomes = "patient,label\n" + "".join(f"p{i},absent\n" for i in range(patients))
    data = read(tmp_path, SERIES, LONG, m__csv=f"patient,time,variable,value\n{rows}", o__csv=outcomes)
    assert len(data) == patients
    # 50 hourly measurements each: the one at the horizon belongs to the last of 48 steps, the one after it is left out.
    assert (data.x[:, :, 1] == 1).all()
    (note,) = data.notes
    assert note.startswith("of 1000000 measurements, 0 before admission and 20000 after the 48 hours")


def test_an_empty_folder_of_stays_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no stay"):
        read_unlabelled(tmp_path, SERIES, STAYS)


def test_an_empty_stay_is_refused_and_not_left_out_in_silence(tmp_path):
    with pytest.raises(DataError, match="1 of 1 stays do not have"):
        read_unlabelled(tmp_path, SERIES, STAYS, **{"1__txt": b""})


@pytest.mark.parametrize(
    ("input_", "binding"),
    [(TABLE, ROWS), (TextInput(), TEXT), (SERIES, LONG.replace("m.csv", "t.csv").replace("o.csv", "t.csv"))],
)
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused_by_name(tmp_path, input_, binding, content):
    with pytest.raises(DataError, match=r"t\.csv: (the file is empty|no column)"):
        read(tmp_path, input_, binding, t__csv=content)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-Infinity"])
def test_a_measurement_that_is_no_finite_number_is_refused(tmp_path, value):
    rows = f"patient,time,variable,value\na,0,HR,{value}\na,5,HR,1\n"
    with pytest.raises(DataError, match="column `value`: 1 of 2 rows are nan or infinite") as caught:
        read(tmp_path, SERIES, LONG, m__csv=rows, o__csv="patient,label\na,absent\n")
    assert "missing" in caught.value.fix
    listed = LONG.replace("[split]", f'missing = ["", "{value}"]\n[split]')
    data = read(tmp_path, SERIES, listed, m__csv=rows, o__csv="patient,label\na,absent\n")
    assert data.x[0, 0].tolist() == [np.float32(1 / 200), 1, 0]
