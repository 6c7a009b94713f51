"""A folder of DICOM files by their tags: who, what, which split, and what is refused."""

import numpy as np
import pytest
from data_files import read, read_unlabelled, study_of
from dicom_files import SHIPPED, write_dicom

from fedmodels.data.checks.source import read_source
from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.errors import DataError, FileError
from fedmodels.study_input import ImageInput

INPUT = ImageInput(height=8, width=10, high=4095)
PIXELS = np.arange(80, dtype=np.uint16).reshape(8, 10)
TAGS = """
kind = "dicom-folder"
path = "export"
dicom.values = "rescaled"
columns.label = "BodyPartExamined"
split.column = "InstitutionalDepartmentName"
[labels]
CHEST = "absent"
KNEE = "disease"
"""
TABLE = """
kind = "dicom-folder"
path = "export"
outcomes = "outcomes.csv"
dicom.values = "rescaled"
columns.label = "finding"
columns.key = "KEY"
split.column = "part"
"""
SECRET = "Xsecret9"


def export(folder, *files):
    """One file per tuple (path, patient, body part, split, level): the level is added to every pixel."""
    for name, patient, part, split, level in files:
        write_dicom(folder / "export" / name, PIXELS + np.uint16(level), PatientID=patient, BodyPartExamined=part,
                    InstitutionalDepartmentName=split, Modality="DX", StudyInstanceUID=f"1.2.{level}")  # fmt: skip


STANDARD = [
    ("b/2.dcm", "q", "KNEE", "test", 200), ("a/1", "p", "CHEST", "train", 100), ("a/3.dcm", "p", "KNEE", "train", 300),
]  # fmt: skip


def test_tags_say_who_what_and_which_split_in_the_order_of_paths(tmp_path):
    export(tmp_path, *STANDARD)
    (tmp_path / "export" / "DICOMDIR").write_bytes(b"an index")
    (tmp_path / "export" / "data.toml").write_text("# a binding")
    (tmp_path / "export" / ".DS_Store").write_bytes(b"a desktop's")
    data = read(tmp_path, INPUT, TAGS)
    assert data.patients.tolist() == ["p", "p", "q"]
    assert data.y.tolist() == [0, 1, 1]
    assert data.split.tolist() == [TRAIN, TRAIN, TEST]
    assert data.x.dtype == np.int16
    assert np.array_equal(data.x[:, 0], np.stack([PIXELS + n for n in (100, 300, 200)]))


def test_tags_narrow_the_folder(tmp_path):
    export(tmp_path, *STANDARD)
    write_dicom(tmp_path / "export" / "report", None, Modality="SR")
    write_dicom(tmp_path / "export" / "side", PIXELS, Modality="DX", ViewPosition="LL")
    binding = TAGS + 'where = { Modality = "DX", ViewPosition = "" }'
    data = read(
        tmp_path, INPUT, binding.replace("[labels]", "").replace("CHEST", "labels.CHEST").replace("KNEE", "labels.KNEE")
    )
    assert len(data) == 3


@pytest.mark.parametrize(
    ("key", "values"),
    [("PatientID", ["p", "q"]), ("StudyInstanceUID", ["1.2.100", "1.2.300", "1.2.200"])],
)
def test_a_table_says_what_is_found_by_patient_or_study(tmp_path, key, values):
    export(tmp_path, *STANDARD)
    export(tmp_path, ("c/9.dcm", "unlisted", "CHEST", "train", 900))
    rows = "".join(
        f"{v},{'disease' if n else 'absent'},{'test' if v in ('q', '1.2.200') else 'train'}\n"
        for n, v in enumerate(values)
    )
    (tmp_path / "export" / "findings.csv").write_text(f"{key},finding,part\n" + rows)
    data = read(tmp_path, INPUT, TABLE.replace("KEY", key).replace("outcomes.csv", "export/findings.csv"))
    assert data.patients.tolist() == ["p", "p", "q"], "the file that no row lists is unused"
    assert data.y.tolist() == ([0, 0, 1] if key == "PatientID" else [0, 1, 1])
    assert data.split.tolist() == [TRAIN, TRAIN, TEST]


def test_without_labels_every_image_is_a_test_image(tmp_path):
    export(tmp_path, *STANDARD)
    data = read_unlabelled(tmp_path, INPUT, 'kind = "dicom-folder"\npath = "export"\ndicom.values = "rescaled"\n')
    assert data.split.tolist() == [TEST] * 3


def test_every_frame_may_be_a_record_of_its_patient(tmp_path):
    export(tmp_path, *STANDARD)
    frames = np.stack([PIXELS + np.uint16(n) for n in (7, 8)])
    path = tmp_path / "export" / "b" / "0"
    write_dicom(
        path, frames, NumberOfFrames=2, PatientID="r", BodyPartExamined="KNEE", InstitutionalDepartmentName="train"
    )
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used: 1 DICOM with several frames \(file 3\)"):
        read(tmp_path, INPUT, TAGS)
    data = read(
        tmp_path,
        INPUT,
        TAGS.replace("[labels]", '[dicom]\nframe = "all"\nvalues = "rescaled"\n[labels]').replace(
            'dicom.values = "rescaled"\n', "", 1
        ),
    )
    assert data.patients.tolist() == ["p", "p", "r", "r", "q"]
    assert data.x[:, 0, 0, 0].tolist() == [100, 300, 7, 8, 200]


def test_the_index_of_a_folder_may_list_dicom_files_among_others(tmp_path):
    export(tmp_path, *STANDARD)
    binding = """
        kind = "image-folder"
        path = "export"
        index = "index.csv"
        dicom = { values = "rescaled", frame = "all" }
        columns = { patient = "patient", file = "file", label = "label" }
        split.column = "split"
    """
    frames = np.stack([PIXELS + np.uint16(n) for n in (7, 8)])
    write_dicom(tmp_path / "export" / "m", frames, NumberOfFrames=2)
    index = "file,patient,label,split\na/1,p,absent,train\nm,r,disease,train\nb/2.dcm,q,disease,test\n"
    data = read(tmp_path, INPUT, binding, index__csv=index)
    assert data.patients.tolist() == ["p", "r", "r", "q"]
    assert data.x[:, 0, 0, 0].tolist() == [100, 7, 8, 200]
    assert len(read_source(tmp_path / "data.toml", study_of(INPUT), data).rows) == 4, "for `data check`"
    write_dicom(tmp_path / "export" / "m", None)
    with pytest.raises(DataError, match=r"1 absent \(data row 1\); 1 DICOM without pixels \(data row 2\)"):
        read(tmp_path, INPUT, binding, index__csv=index.replace("a/1", "a/7"))


def test_refusals_count_and_tell_positions_but_never_values(tmp_path):
    export(tmp_path, *STANDARD, (f"{SECRET}.dcm", SECRET, SECRET, "train", 1))
    with pytest.raises(DataError, match="1 of 4 records have a label that is not in the binding's") as caught:
        read(tmp_path, INPUT, TAGS)
    assert SECRET not in repr(caught.value)
    (tmp_path / "export" / f"{SECRET}.dcm").write_bytes(b"")
    (tmp_path / "export" / f"{SECRET}.txt").write_text("who")
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, TAGS)
    assert "2 of 5 images cannot be used: 1 empty (0 bytes) (file 1); 1 neither" in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_the_same_image_under_two_patients_is_refused(tmp_path):
    for name, patient in (("a", "p"), ("b", SECRET)):
        tags = {"BodyPartExamined": "KNEE", "InstitutionalDepartmentName": "train", "SOPInstanceUID": "1.2.3"}
        write_dicom(tmp_path / "export" / name, PIXELS, PatientID=patient, **tags)
    with pytest.raises(DataError, match="1 of 2 records show an image that is another patient's, too") as caught:
        read(tmp_path, INPUT, TAGS)
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("change", "rows", "named"),
    [
        (("KEY", "PatientID"), "PatientID,finding\np,absent\n", "no keywords of DICOM tags, nor columns of `outcomes`"),
        (
            ("KEY", "PatientID"),
            "PatientID,finding,part\np,absent,train\np,absent,train\n",
            "1 of 2 rows repeat a value",
        ),
        (("KEY", "PatientID"), f"PatientID,finding,part\n{SECRET},absent,train\n", "1 of 1 rows are of no file"),
        (("KEY", "PatientID"), "who,finding,part\np,absent,train\n", "no column `PatientID`"),
    ],
)
def test_tables_that_do_not_fit_the_folder_are_refused(tmp_path, change, rows, named):
    export(tmp_path, *STANDARD)
    with pytest.raises(DataError) as caught:
        read(tmp_path, INPUT, TABLE.replace(*change), outcomes__csv=rows)
    assert named in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_folders_without_files_patients_or_known_tags_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path, INPUT, TAGS)
    (tmp_path / "export").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        read(tmp_path, INPUT, TAGS)
    export(tmp_path, *STANDARD, ("z", None, "KNEE", "train", 1))
    with pytest.raises(DataError, match="1 of 4 rows have no patient"):
        read(tmp_path, INPUT, TAGS)
    with pytest.raises(DataError, match="`BodyPart`: no keywords of DICOM tags, and there are no `outcomes`"):
        read(tmp_path, INPUT, TAGS.replace("BodyPartExamined", "BodyPart"))


def test_a_window_needs_to_be_used_and_the_meaning_of_values_to_be_said(tmp_path):
    export(tmp_path, *STANDARD)
    with pytest.raises(FileError, match=r"`dicom\.window` needs"):
        read(tmp_path, INPUT, TAGS.replace("[labels]", "dicom.window = [1.0, 2.0]\n[labels]"))
    with pytest.raises(FileError, match="dicom"):
        read(tmp_path, INPUT, TAGS.replace('dicom.values = "rescaled"\n', ""))


def test_the_folders_that_come_with_pydicom_are_read_by_their_tags(tmp_path):
    binding = """
        kind = "dicom-folder"
        path = "PATH"
        dicom.values = "rescaled"
        columns.label = "Modality"
        labels = { CT = "absent", MR = "disease" }
        split.test_fraction = 0.5
    """
    folder = SHIPPED / "dicomdirtests" / "98892003"
    data = read(tmp_path, ImageInput(height=32, width=32, high=4095), binding.replace("PATH", str(folder)))
    assert len(data) == sum(path.is_file() for path in folder.rglob("*")) == 17
    assert set(data.y.tolist()) == {1}
    assert data.patients_in(TRAIN) + data.patients_in(TEST) == 1
