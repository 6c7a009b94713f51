"""Files that are written without a sync: whole or absent, for this user alone, and never the old file's own bytes."""

import os
from pathlib import Path

import pytest

from fedmodels.files import write_quickly


def test_a_quick_file_is_new_and_leaves_other_names_of_the_old_one_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "x.upload", tmp_path / "kept"
    write_quickly(path, b"old")
    other.hardlink_to(path)
    write_quickly(path, b"new", memoryview(b"er"))
    assert (path.read_bytes(), other.read_bytes()) == (b"newer", b"old")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [other, path]


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_quick_file_that_fails_is_whole_or_absent(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.upload"
    write_quickly(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "no space")

    if failing == "write":
        monkeypatch.setattr(os, "fdopen", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        write_quickly(path, b"new")
    assert (path.read_bytes() if path.exists() else None) == (b"old" if failing == "write" else None)
