"""`fedmodels data check` as a person uses it: what it prints and writes, how it ends, and what it never shows."""

import csv
import json
import stat

import numpy as np
import pytest
from data_files import site
from PIL import Image
from typer.testing import CliRunner

from fedmodels.cli import app
from fedmodels.data.checks.run import examine
from fedmodels.errors import UsageError
from fedmodels.study import parse_study

STUDY = """
[study]
name = "pain"
task = "binary"
labels = ["no", "yes"]
[model]
name = "mlp"
[input]
modality = "table"
columns = [
    { name = "glucose", low = 50, high = 300 },
    { name = "sex", kind = "category", values = ["F", "M"] },
    { name = "age", low = 0, high = 110 },
]
[training]
rounds = 1
[privacy]
mode = "none"
[federation]
hospitals = 3
"""
BINDING = """
kind = "table"
path = "table.csv"
[where]
clinic = "7"
[columns]
patient = "name"
label = "pain"
[split]
test_fraction = 0.3
"""
IMAGES = (
    STUDY.split("[input]")[0]
    + '[input]\nmodality = "image"\nheight = 16\nwidth = 16\n[training]'
    + STUDY.split("[training]")[1]
)


def _cells(count=400):
    generator = np.random.default_rng(9)
    for row in range(count):
        yield [f"Zwolinski-{row}", round(generator.uniform(60, 250), 6), "FM"[row % 2], generator.integers(18, 95),
               ("no", "yes")[row // 2 % 2], 7 if row % 5 else 8]  # fmt: skip


def _folder(tmp_path, rows=None, binding=BINDING, **files):
    head = ["name", "glucose", "sex", "age", "pain", "clinic"]
    text = "\n".join(",".join(map(str, row)) for row in [head, *(rows or _cells())])
    path = site(tmp_path, binding, table__csv=text, study__toml=STUDY, **files)
    return [str(tmp_path / "study.toml"), str(path)]


def _run(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


def test_sound_records_end_with_0_and_a_table(tmp_path):
    done = _run(*_folder(tmp_path))
    assert done.exit_code == 0, done.output
    assert "320 records of 320 patients" in " ".join(done.stdout.split())
    assert "must not leave" in " ".join(done.stdout.split())


def test_json_has_every_finding_and_no_record(tmp_path):
    done = _run(*_folder(tmp_path), "--json")
    findings = json.loads(done.stdout)
    assert [f["name"] for f in findings][:3] == ["records", "split", "classes"]
    assert all(f.keys() == {"name", "verdict", "what", "fix", "numbers"} for f in findings)
    assert findings[1]["numbers"].keys() == {"train_patients", "test_patients"}


def test_a_failure_ends_with_1(tmp_path):
    rows = [[name, glucose / 18, *rest] for name, glucose, *rest in _cells()]
    done = _run(*_folder(tmp_path, rows), "--json")
    assert done.exit_code == 1
    (failed,) = [f for f in json.loads(done.stdout) if f["verdict"] == "fail"]
    assert failed["name"] == "ranges"
    assert "glucose looks like mmol/L" in failed["fix"]


@pytest.mark.parametrize(
    ("binding", "says"),
    [
        (BINDING.replace('"pain"', '"pains"'), "no column `pains`"),
        (BINDING.replace("table.csv", "other.csv"), "no such file"),
        (BINDING.replace("[where]", "[what]"), "unknown"),
        (BINDING.replace('label = "pain"\n', ""), "no labels"),
        ('kind = "image-npz"\npath = "a.npz"\npatient = "row"\ntrain = ["x", "y"]\n', "no such file"),
        (BINDING.replace("[where]", 'labels = { a = "no" }\n[where]'), "label that is not"),
    ],
)
def test_what_cannot_be_read_is_the_one_finding_with_the_reason_and_what_to_do(tmp_path, binding, says):
    done = _run(*_folder(tmp_path, binding=binding), "--json")
    (finding,) = json.loads(done.stdout)
    assert (done.exit_code, finding["name"], finding["verdict"]) == (1, "schema", "fail")
    assert says in finding["what"]
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_modality_of_the_study_is_checked(tmp_path):
    _folder(tmp_path)
    (tmp_path / "study.toml").write_text(IMAGES)
    done = _run(tmp_path / "study.toml", tmp_path / "data.toml", "--json", "--out", tmp_path / "out")
    assert "the study's input has modality `image`" in json.loads(done.stdout)[0]["what"]
    assert (tmp_path / "out" / "check.html").is_file()


def test_a_bundled_study_is_found_by_its_name(tmp_path):
    done = _run("heart_disease", _folder(tmp_path)[1], "--json")
    assert "no column `trestbps`" not in done.stdout
    assert "no column `cp`" in done.stdout


def test_what_is_written_is_for_this_user_alone_and_names_no_patient(tmp_path):
    rows = [*_cells()]
    rows[11][1:5], rows[12][2] = rows[6][1:5], "diverse-cell"
    out = tmp_path / "new" / "out"
    done = _run(*_folder(tmp_path, rows), "--out", out, "--rows")
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    page = (out / "check.html").read_text(encoding="utf-8")
    assert "PRIVATE" in page
    assert "<script" not in page
    for text in (page, (out / "rows.csv").read_text(), done.output):
        assert "Zwolinski" not in text
        assert "diverse" not in text
    with (out / "rows.csv").open() as file:
        listed = [(row["finding"], int(row["row"])) for row in csv.DictReader(file)]
    # Data rows are counted in the file, of which `where` leaves one in five out.
    assert {row for name, row in listed if name == "duplicates"} == {7, 12}
    assert ("categories", 13) in listed


def test_rows_count_in_the_file_after_a_list_of_patients_too(tmp_path):
    rows = [*_cells()]
    rows[391][1:5] = rows[386][1:5]
    names = "\n".join(f"Zwolinski-{row}" for row in range(200, 400))
    command = _folder(tmp_path, rows, 'patients = "some.txt"\n' + BINDING, some__txt=names)
    _run(*command, "--out", tmp_path / "out", "--rows")
    text = (tmp_path / "out" / "rows.csv").read_text()
    assert "duplicates,1,387\n" in text.replace("\r", "")
    assert "duplicates,1,392\n" in text.replace("\r", "")


def test_a_folder_that_others_can_enter_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    done = _run(*_folder(tmp_path), "--out", tmp_path / "open")
    assert isinstance(done.exception, UsageError)
    assert "other users" in str(done.exception)
    assert [*(tmp_path / "open").iterdir()] == []


@pytest.mark.parametrize("flags", [["--rows"], ["--pictures"], ["--pictures", "--out", "x"]])
def test_flags_that_cannot_be_served_are_wrong_use(tmp_path, flags):
    done = _run(*_folder(tmp_path), *flags)
    assert isinstance(done.exception, UsageError)


def _image_folder(tmp_path):
    generator = np.random.default_rng(10)
    lines = ["file,who,pain"]
    pixels = generator.integers(0, 256, (60, 16, 16)).astype(np.uint8)
    pixels[31] = pixels[4]
    for row in range(60):
        Image.fromarray(pixels[row]).save(tmp_path / f"Zwolinski-{row}.png")
        lines.append(f"Zwolinski-{row}.png,Zwolinski-{row},{('no', 'yes')[row // 2 % 2]}")
    binding = (
        'kind = "image-folder"\npath = "."\nindex = "index.csv"\n[columns]\nfile = "file"\npatient = "who"\n'
        'label = "pain"\n[split]\ntest_fraction = 0.3\n'
    )
    return site(tmp_path, binding, index__csv="\n".join(lines), study__toml=IMAGES)


def test_pictures_are_shown_only_where_they_are_asked_for(tmp_path):
    binding = _image_folder(tmp_path)
    without = _run(tmp_path / "study.toml", binding, "--out", tmp_path / "a")
    with_them = _run(tmp_path / "study.toml", binding, "--out", tmp_path / "b", "--pictures")
    assert "data:image" not in (tmp_path / "a" / "check.html").read_text()
    page = (tmp_path / "b" / "check.html").read_text()
    assert page.count("data:image/png") >= 2
    assert "row 5<br>" in page
    assert "row 32<br>" in page
    assert "Zwolinski" not in page + without.output + with_them.output
    assert "1 sizes, 16 × 16" in page


def test_a_check_reads_and_changes_nothing_else(tmp_path):
    _folder(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    examine(tmp_path / "data.toml", parse_study(STUDY), lambda what, done, total: None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
