import numpy as np
import pytest
from data_files import read, read_unlabelled
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.data.features import feature_count, feature_names
from fedmodels.data.records import is_test
from fedmodels.errors import DataError, FileError
from fedmodels.study_input import Column, TableInput

INPUT = TableInput((Column("age", low=0, high=100), Column("pain", kind="category", values=("1", "2"))))
BINDING = """
kind = "table"
path = "t.csv"
missing = ["?", ""]
[columns]
patient = "who"
label = "num"
[labels]
0 = "absent"
1 = "disease"
[split]
column = "set"
"""
ROWS = "who,age,pain,num,set\na,50,1.0,0,train\nb,?,2,1,test\na,120,3,1,train\n"


def test_numbers_are_scaled_by_the_public_range_and_categories_become_indicators(tmp_path):
    data = read(tmp_path, INPUT, BINDING, t__csv=ROWS)
    assert feature_names(INPUT) == ("age", "age (missing)", "pain = 1", "pain = 2", "pain (missing)")
    assert feature_count(INPUT) == data.x.shape[1]
    assert data.x.dtype == np.float32
    assert data.x.tolist() == [[0.5, 0, 1, 0, 0], [0.5, 1, 0, 1, 0], [1.0, 0, 0, 0, 1]]
    assert data.y.tolist() == [0, 1, 1]
    assert data.split.tolist() == [TRAIN, TEST, TRAIN]
    assert data.patients.tolist() == ["a", "b", "a"]


def test_codes_written_as_1_and_1_point_0_are_the_same_label_category_and_filter_value(tmp_path):
    rows = ROWS.replace(",0,train", ",0.0,train").replace("a,50,1.0", "a,50,1.")
    data = read(tmp_path, INPUT, BINDING + '[where]\npain = "1"\n', t__csv=rows)
    assert data.x.tolist() == [[0.5, 0, 1, 0, 0]]
    assert data.y.tolist() == [0]


def test_a_split_file_decides_who_is_used_and_for_what(tmp_path):
    binding = BINDING.replace('patient = "who"', 'patient = "row"')
    binding = binding.replace('column = "set"', 'file = "s.csv"\npatient = "n"\ncolumn = "use"\nwhere = { site = "A" }')
    split = "site,n,use\nA,2,test\nB,1,train\nA,0,train\n"
    data = read(tmp_path, INPUT, binding, t__csv=ROWS, s__csv=split)
    assert data.patients.tolist() == ["0", "2"]
    assert data.split.tolist() == [TRAIN, TEST]


NEW = BINDING.replace('label = "num"\n', "").partition("[labels]")[0]


def test_rows_without_a_label_column_are_read_alike_and_are_all_test_records(tmp_path):
    labelled = read(tmp_path, INPUT, BINDING, t__csv=ROWS)
    data = read_unlabelled(tmp_path, INPUT, NEW, t__csv="who,age,pain\na,50,1.0\nb,?,2\na,120,3\n")
    assert np.array_equal(data.x, labelled.x)
    assert data.patients.tolist() == ["a", "b", "a"]
    assert data.split.tolist() == [TEST] * 3


def test_unlabelled_rows_keep_to_filter_and_split_if_there_are_any(tmp_path):
    data = read_unlabelled(tmp_path, INPUT, NEW + '[split]\ncolumn = "set"\n', t__csv=ROWS)
    assert data.split.tolist() == [TRAIN, TEST, TRAIN]
    assert read_unlabelled(tmp_path, INPUT, NEW + '[where]\npain = "2"\n', t__csv=ROWS).patients.tolist() == ["b"]


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True), st.floats(0.01, 0.98))
def test_a_patients_split_depends_on_its_name_alone_and_grows_with_the_fraction(names, fraction):
    assert all(not is_test(name, fraction) or is_test(name, fraction + 0.01) for name in names)


def test_the_hashed_split_is_the_same_in_every_version_and_takes_its_share():
    assert [name for name in map(str, range(20)) if is_test(name, 0.2)] == EXPECTED_TEST
    share = np.mean([is_test(f"patient {number}", 0.2) for number in range(20_000)])
    assert abs(share - 0.2) < 0.01


# Written down once; a change of salt or hash would silently move patients between training and test.
EXPECTED_TEST = ["2", "4", "12", "19"]

SECRET = "Xsecret9"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (",num,", ",outcome,", "no column `num`"),
        ("who,age", "who,years", "no column `age`"),
        ("a,50", f"a,{SECRET}", "column `age`: 1 of 3 rows are not numbers"),
        ("a,50", "a,nan", "column `age`: 1 of 3 rows are nan or infinite"),
        ("a,50", "a,-Infinity", "column `age`: 1 of 3 rows are nan or infinite"),
        ("a,50", "a,1970-01-31", "column `age`: 1 of 3 rows are dates, not numbers"),
        ("a,50", 'a,"50,5"', "they have a decimal comma"),
        ("a,50", "a,<50", "bounds such as < or >"),
        (",0,train", f",{SECRET},train", "column `num`: 1 of 3 records have a label that is not in"),
        (",0,train", ",NaN,train", "column `num`: 1 of 3 records have no label"),
        (",0,train", ",,train", "column `num`: 1 of 3 records have no label"),
        (",0,train", f",0,{SECRET}", "column `set`: 1 of 3 rows are neither `train` nor `test`"),
        ("a,50", ",50", "column `who`: 1 of 3 rows have no patient"),
        (",0,train", f",0,train,{SECRET}", "1 of 3 rows do not have 5 cells, the first is row 1"),
        (",0,train", f",{SECRET}", "1 of 3 rows do not have 5 cells"),
        ("a,50", f'"{SECRET},50', "is not valid CSV"),
        ("who,age", "age,age", "a column name occurs twice"),
        ("a,120,3,1,train", "a,120,3,1,test", "both the training and the test split"),
        (",", ";", "separated by semicolons"),
        (",", "\t", "separated by tabs"),
        (ROWS, "", "the file is empty"),
        (ROWS, "\n\n", "the file is empty"),
        (ROWS, "who,age,pain,num,set\n", "the file has no rows"),
    ],
)
def test_bad_rows_are_refused_with_column_and_count_but_no_value(tmp_path, old, new, named):
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, BINDING, t__csv=ROWS.replace(old, new))
    assert named in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_a_missing_line_of_names_does_not_put_a_patient_into_the_message(tmp_path):
    with pytest.raises(DataError, match="no column") as caught:
        read(tmp_path, INPUT, BINDING, t__csv=f"{SECRET},50,1,0,train\nb,50,1,0,train\n")
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("addition", "named"),
    [
        ('[where]\nage = "77"\n', "none of 3 rows passes the filter"),
        ('[where]\ncity = "A"\n', "no column `city`"),
        ('2 = "unheard of"\n', "`labels` of the data binding names unheard of"),
    ],
)
def test_filters_and_labels_that_fit_nothing_are_refused(tmp_path, addition, named):
    binding = BINDING.replace("[split]", addition + "[split]")
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, binding, t__csv=ROWS)
    assert named in str(caught.value)


def test_a_split_file_must_list_every_patient_once_and_know_the_data(tmp_path):
    binding = BINDING.replace('column = "set"', 'file = "s.csv"\npatient = "p"\ncolumn = "use"')
    with pytest.raises(DataError, match="1 of 2 rows repeat a patient"):
        read(tmp_path, INPUT, binding, t__csv=ROWS, s__csv="p,use\na,train\na,test\n")
    with pytest.raises(DataError, match="none of 3 records is of a patient that the split file lists"):
        read(tmp_path, INPUT, binding, t__csv=ROWS, s__csv="p,use\nz,train\n")


def test_a_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: no such file"):
        read(tmp_path, INPUT, BINDING)


def test_a_malformed_binding_is_a_file_error(tmp_path):
    with pytest.raises(FileError):
        read(tmp_path, INPUT, "kind = ")
