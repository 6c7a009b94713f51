"""The folder that an audit of patients leaves: readable by its owner alone."""

from pathlib import Path
from typing import Any

import msgspec

from fedmodels.errors import UsageError
from fedmodels.files import write_synced


def new_folder(path: Path) -> None:
    """Check that an audit may write there, before it takes minutes."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError("the folder is not empty", where=f"--out {path}", fix="name a new folder")


def write(folder: Path, name: str, content: bytes) -> None:
    """A file of mode 0600 in a folder that is made with mode 0700."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_synced(folder / name, content, mode=0o600)


def as_json(value: Any) -> bytes:  # noqa: ANN401 - what msgspec encodes
    """Indented JSON; a number that is not finite becomes null."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
