"""`server run` and `server resume` up to the link: which folder a run may have, and what a killed one left in it."""

from pathlib import Path

import numpy as np
import pytest
from federations import tiny_text
from test_home import card, home_in

import server.running
from fedmodels.errors import RunError, UsageError
from server.home import Home
from server.kept import Kept
from server.rundir import RunDirectory


class NoLink:
    """As if no link ran."""

    def __init__(self, *_: object) -> None:
        raise RunError("no link")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A coordinator with a roster of three and a study beside it, and no link."""
    monkeypatch.setattr(server.running, "Link", NoLink)
    made = home_in(tmp_path / "coordinator")
    for name in ("a", "b", "c"):
        made.add_hospital(card(name))
    study_of(made).write_text(tiny_text("federation.hospitals=3"))
    return made


def study_of(home: Home) -> Path:
    return home.directory / "study.toml"


def run_with_uploads(home: Home, path: Path) -> Path:
    """A run directory whose coordinator was killed in the middle of a `recover` session; the folder of its uploads."""
    RunDirectory.create(path, study_of(home).read_bytes(), home.roster_file.read_bytes())
    kept = Kept(path)
    kept.__enter__()
    kept.put("a", np.arange(3, dtype=np.uint32))
    assert list((path / "uploads").iterdir())
    return path / "uploads"


def test_uploads_of_a_killed_coordinator_go_with_the_start_of_any_run(home: Home) -> None:
    left = [run_with_uploads(home, home.runs / name) for name in ("one", "two")]
    with pytest.raises(RunError, match="no link"):
        server.running.run(home.directory, study_of(home), None)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("where", ["coordinator/runs/mine", "elsewhere"])
def test_uploads_of_a_killed_coordinator_go_with_the_start_of_resuming_wherever_its_run_is(
    tmp_path: Path, home: Home, where: str
) -> None:
    left = run_with_uploads(home, tmp_path / where)
    with pytest.raises(RunError, match="no link"):
        server.running.resume(home.directory, tmp_path / where)
    assert not left.exists()


def test_uploads_of_a_run_that_goes_on_are_left_alone(tmp_path: Path, home: Home) -> None:
    used = run_with_uploads(home, tmp_path / "elsewhere")
    with home.hold("run"), pytest.raises(RunError, match="running already"):
        server.running.resume(home.directory, tmp_path / "elsewhere")
    assert used.exists()


@pytest.mark.parametrize("name", ["uploads/a.masked.npy", "rounds.jsonl"])
def test_a_folder_in_use_is_refused_before_anything_is_done(tmp_path: Path, home: Home, name: str) -> None:
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="name a new folder"):
        server.running.run(home.directory, study_of(home), tmp_path / "project")
    assert mine.read_bytes() == b"mine"
