import os

import numpy as np
import pytest
from data_files import read, site, study_of

from fedmodels.data import load as load_module
from fedmodels.data.features import feature_count, feature_names
from fedmodels.data.load import load
from fedmodels.errors import DataError, UsageError
from fedmodels.study_input import Column, ImageInput, SeriesInput, TableInput, TextInput, Variable

INPUT = TableInput((Column("age", low=0, high=100),))
BINDING = """
kind = "table"
path = "{path}"
[columns]
patient = "who"
label = "label"
[split]
test_fraction = 0.5
"""
ROWS = "who,age,label\na,1,absent\nb,2,disease\na,3,absent\n"


@pytest.fixture
def reads(monkeypatch):
    """How many times a file was really read."""
    calls = []
    original = load_module.read_table

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(load_module, "read_table", counted)
    return calls


def test_sites_that_share_a_pool_read_it_once_and_each_gets_its_own_patients(tmp_path, reads):
    (tmp_path / "pool.csv").write_text(ROWS)
    sites = {}
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "only.txt").write_text(f"{name}\n\nnobody\n")
        binding = 'patients = "only.txt"\n' + BINDING.format(path="../pool.csv").replace("../", f"{tmp_path}/")
        sites[name] = load(site(folder, binding), study_of(INPUT))
    assert len(reads) == 1
    assert sites["a"].patients.tolist() == ["a", "a"]
    assert sites["b"].patients.tolist() == ["b"]


def test_a_changed_file_another_label_order_or_another_range_is_read_again(tmp_path, reads):
    path = site(tmp_path, BINDING.format(path="t.csv"), t__csv=ROWS)
    first = load(path, study_of(INPUT))
    assert load(path, study_of(INPUT)) is first
    (tmp_path / "t.csv").write_text(ROWS + "c,4,absent\n")
    assert len(load(path, study_of(INPUT))) == 4
    os.utime(tmp_path / "t.csv", ns=(1, 1))
    load(path, study_of(INPUT))
    assert load(path, study_of(INPUT, ("disease", "absent"))).y.tolist() == [1, 0, 1, 1]
    assert load(path, study_of(TableInput((Column("age", low=0, high=10),)))).x[0, 0] == np.float32(0.1)
    assert len(reads) == 5


def test_a_consent_list_that_names_nobody_here_is_refused_without_names(tmp_path):
    binding = 'patients = "only.txt"\n' + BINDING.format(path="t.csv")
    with pytest.raises(DataError, match="none of 3 records is of one of the 2 patients listed") as caught:
        read(tmp_path, INPUT, binding, t__csv=ROWS, only__txt="Xsecret\nYsecret\n")
    assert "secret" not in repr(caught.value)


def test_an_absent_consent_list_is_refused_rather_than_ignored(tmp_path):
    with pytest.raises(UsageError, match=r"only\.txt: no such file"):
        read(tmp_path, INPUT, 'patients = "only.txt"\n' + BINDING.format(path="t.csv"), t__csv=ROWS)


def test_a_site_may_lack_test_patients(tmp_path):
    rows = "who,age,label,set\na,1,absent,train\n"
    binding = BINDING.format(path="t.csv").replace("test_fraction = 0.5", 'column = "set"')
    assert read(tmp_path, INPUT, binding, t__csv=rows).split.tolist() == [0]


def test_an_empty_site_is_refused(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path, INPUT, BINDING.format(path="t.csv"), t__csv="who,age,label\n")


@pytest.mark.parametrize(
    "input_", [ImageInput(height=8, width=8), TextInput(), SeriesInput((Variable("HR", 0, 1),), steps=1)]
)
def test_data_of_another_modality_than_the_study_is_refused(tmp_path, input_):
    with pytest.raises(DataError, match="kind `table`, the study's input has modality"):
        read(tmp_path, input_, BINDING.format(path="t.csv"), t__csv=ROWS)


@pytest.mark.parametrize(
    ("input_", "names"),
    [
        (ImageInput(height=8, width=8), ("grey",)),
        (ImageInput(height=8, width=8, channels=3), ("red", "green", "blue")),
        (TextInput(), ("token",)),
    ],
)
def test_images_and_text_have_channels_and_tokens_as_features(input_, names):
    assert feature_names(input_) == names
    assert feature_count(input_) == len(names)
