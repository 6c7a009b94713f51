from pathlib import Path

import pytest

from fedmodels.data.binding import data_root, parse_binding, read_binding, resolve, sources
from fedmodels.errors import DataError, FileError

TABLE = """
kind = "table"
path = "heart.csv"
[columns]
patient = "row"
label = "num"
[split]
test_fraction = 0.2
"""
NPZ = 'kind = "image-npz"\npath = "a.npz"\n'


def test_a_binding_is_read_with_all_paths_absolute_and_relative_to_itself(tmp_path):
    (tmp_path / "lists").mkdir()
    text = TABLE.replace("test_fraction = 0.2", 'file = "lists/split.csv"\npatient = "p"\ncolumn = "set"')
    (tmp_path / "data.toml").write_text('patients = "lists/consent.txt"\n' + text)
    binding = read_binding(tmp_path / "data.toml")
    assert binding.path == str(tmp_path / "heart.csv")
    assert binding.patients == str(tmp_path / "lists/consent.txt")
    assert sources(binding) == [tmp_path / "heart.csv", tmp_path / "lists/split.csv"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (('label = "num"', 'label = "num"\nlable = "num"'), "data.toml:7: unknown key `columns.lable`"),
        (('path = "heart.csv"', ""), "missing key `path`"),
        (('"table"', '"table-xls"'), "kind"),
        (('path = "heart.csv"', 'path = "heart.csv"\nencoding = "utf-99"'), "encoding"),
        (("[split]\ntest_fraction = 0.2", ""), "data.toml: missing key `split`"),
        (("test_fraction = 0.2", ""), "either `test_fraction` or `column`"),
        (("test_fraction = 0.2", 'test_fraction = 0.2\ncolumn = "set"'), "either `test_fraction` or `column`"),
        (("test_fraction = 0.2", "test_fraction = 1.0"), "test_fraction"),
        (("test_fraction = 0.2", 'column = "set"\nfile = "s.csv"'), "`patient` column"),
        (("test_fraction = 0.2", 'column = "set"\nwhere = { a = "b" }'), "`split.where`"),
        (("test_fraction = 0.2", 'column = "set"\ntrain = "test"'), "different words"),
    ],
)
def test_a_wrong_binding_is_refused_and_the_message_names_what_is_wrong(change, named):
    with pytest.raises(FileError) as caught:
        parse_binding(TABLE.replace(*change))
    assert named in str(caught.value)
    assert "data.toml" in str(caught.value)


UNSPLIT = TABLE.partition("[split]")[0]
SERIES = 'path = "m.csv"\n[labels]\n0 = "a"\n'


@pytest.mark.parametrize(
    ("labelled", "label"),
    [
        (UNSPLIT, 'label = "num"\n'),
        (UNSPLIT.replace("table", "text") + 'text = ["t"]\n', 'label = "num"\n'),
        ('index = "i.csv"' + UNSPLIT.replace("table", "image-folder") + 'file = "f"\n', 'label = "num"\n'),
        ('kind = "series-long"\noutcomes = "o.csv"\n' + SERIES, 'outcomes = "o.csv"\n'),
        ('kind = "series-physionet2012"\noutcomes = "o.csv"\n' + SERIES, 'outcomes = "o.csv"\n'),
    ],
)
def test_a_binding_needs_a_split_if_it_names_labels_and_only_then(labelled, label):
    with pytest.raises(FileError, match="missing key `split`"):
        parse_binding(labelled)
    assert parse_binding(labelled + "[split]\ntest_fraction = 0.2\n").labelled
    assert not parse_binding(labelled.replace(label, "")).labelled
    assert not parse_binding(labelled.replace(label, "") + "[split]\ntest_fraction = 0.2\n").labelled


def test_series_without_outcomes_have_no_column_that_could_hold_the_split():
    with pytest.raises(FileError, match=r"`split.column` names a column of `outcomes`"):
        parse_binding('kind = "series-long"\npath = "m.csv"\n[split]\ncolumn = "set"\n')


@pytest.mark.parametrize(
    "arrays",
    [
        'train = ["images", "labels"]',
        'train = ["images", "labels", "patients"]\npatient = "row"',
        'train = ["images", "labels", "patients"]\ntest = ["images", "labels"]',
        'train = ["images", "labels"]\npatient = "row"\nwhere = { a = "1" }',
        'train = ["images"]',
        'train = ["images", ""]\npatient = "row"',
        'train = ["", "labels"]\npatient = "row"',
        'train = ["images"]\ntest = ["images", "labels"]\npatient = "row"',
        'train = ["images", "", "patients"]\npatient = "row"',
        'test = ["images", "labels"]\npatient = "row"',
        'patient = "row"',
    ],
)
def test_an_npz_must_say_whose_the_images_are_and_cannot_be_filtered(arrays):
    with pytest.raises(FileError):
        parse_binding(NPZ + arrays)


def test_the_data_variable_is_the_environments_folder_if_set(tmp_path):
    assert data_root({"FEDMODELS_DATA": "/elsewhere"}, tmp_path) == Path("/elsewhere")


def test_the_data_variable_falls_back_to_data_below_the_working_directory_and_then_to_the_shared_folder(tmp_path):
    work = tmp_path / "work"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    work.mkdir()
    assert data_root({"FEDMODELS_DATA": ""}, work) == tmp_path / "shared" / "data"
    (work / "data").mkdir()
    assert data_root({}, work) == work / "data"


def test_without_public_data_the_message_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("fedmodels.data.binding.__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(DataError, match="fedmodels data fetch") as caught:
        data_root({}, tmp_path / "nowhere")
    assert "FEDMODELS_DATA" in str(caught.value)


def test_only_the_data_variable_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMODELS_DATA", str(tmp_path))
    assert resolve("$FEDMODELS_DATA/a/b.csv", tmp_path / "data.toml") == tmp_path / "a/b.csv"
    for value in ("$HOME/b.csv", "$FEDMODELS_DATA2/b.csv"):
        with pytest.raises(FileError, match="only"):
            resolve(value, tmp_path / "data.toml")
