"""`server run` and `server resume` up to the link: which folder a run may have."""

from pathlib import Path

import pytest
from federations import tiny_text
from test_home import card, home_in

import server.running
from fedmodels.errors import RunError, UsageError
from server.home import Home


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


@pytest.mark.parametrize("name", ["uploads/a.masked.npy", "rounds.jsonl"])
def test_a_folder_in_use_is_refused_before_anything_is_done(tmp_path: Path, home: Home, name: str) -> None:
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="name a new folder"):
        server.running.run(home.directory, study_of(home), tmp_path / "project")
    assert mine.read_bytes() == b"mine"
