"""Which directories the report refuses, and what it then says."""

import pytest
from run_directories import change_result, write_run

from fedmodels.errors import FileError, UsageError
from fedmodels.report.page import write_report


@pytest.mark.parametrize("name", ["study.toml", "roster.toml", "rounds.jsonl", "result.json"])
def test_a_directory_without_one_of_its_files_is_refused_by_name(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(UsageError, match=f"no {name}") as caught:
        write_report(run)
    assert caught.value.where == str(run)
    assert caught.value.fix
    assert not (run / "report.html").exists()


def test_a_page_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(UsageError, match="cannot be written: Is a directory") as caught:
        write_report(run)
    assert caught.value.where == str(run / "report.html")


def test_something_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not the directory of a finished run"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("study.toml", "rounds = 12", "rounds = 13", "not the study of this run"),
        ("roster.toml", "= 100", "= 101", "not the roster of this run"),
        ("result.json", '"metrics"', '"metrix"', "metrics"),
        ("result.json", '"study": ', '"study" ', "not valid JSON"),
        ("result.json", '"delta": 1e-05', '"delta": null', "lacks figures"),
        ("result.json", '"basel": 8.5291', '"basle": 8.5291', "lacks figures"),
        ("result.json", '"steps": 65', '"steps": -5', "steps"),
        ("result.json", '"cut": 16', '"cut": 64', "not a bin of this study's counts"),
        ("counts.json", '"counts": [', '"counts": [0, ', "does not hold the evaluation counts"),
        ("counts.json", '"hospitals": 4', '"hospitals": "x"', "hospitals"),
        ("rounds.jsonl", '"loss": null', '"loss": 0.5', "tells a loss with privacy"),
        ("rounds.jsonl", '"round": 2,', '"round": 3,', "does not hold the rounds"),
        ("rounds.jsonl", '"clipped": 0', '"clipped": "x"', "rounds.jsonl:2"),
    ],
)
def test_files_that_are_malformed_or_of_different_runs_are_refused(tmp_path, name, old, new, problem):
    run = write_run(tmp_path / "run")
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    with pytest.raises(FileError) as caught:
        write_report(run)
    assert problem in str(caught.value)
    assert name in caught.value.where
    assert caught.value.fix


def test_a_run_whose_last_round_is_missing_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    change_result(run, rounds_completed=13)
    with pytest.raises(FileError, match="does not hold the rounds 1 to 13"):
        write_report(run)


def test_a_dropout_of_a_round_that_never_was_is_refused(tmp_path):
    run = write_run(tmp_path / "run")
    change_result(run, dropouts=[{"round": 0, "kind": "train", "hospital": "basel", "reason": "x"}])
    with pytest.raises(FileError, match="`dropouts` names a round"):
        write_report(run)
