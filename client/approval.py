"""What a hospital's people agreed to, pinned byte by byte: a study, a roster and a coordinator.

`approved/` holds `study.toml`, `roster.toml` and `record.json`. The record is written last, and is compared with the
files whenever they are read: whatever changed by one byte must be approved again.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fedmodels.errors import Refused
from fedmodels.files import write_synced
from fedmodels.study import Roster, Study, parse_roster, parse_study
from fedmodels.typed import Strict


class Record(Strict, frozen=True):
    """Who approved what and when. Digests are SHA-256 of the files' bytes, in hex.

    coordinator: fingerprint of the invitation that was pinned then, empty where there was none.
    """

    study: str
    roster: str
    policy: str
    coordinator: str
    by: str
    time: str


@dataclass(frozen=True)
class Approved:
    """A study and a roster that were approved and are unchanged since."""

    study: Study
    roster: Roster
    record: Record


def pin(folder: Path, study: bytes, roster: bytes, record: Callable[[str, str], Record]) -> None:
    """Write study and roster, and then the record of their digests."""
    write_synced(folder / "study.toml", study)
    write_synced(folder / "roster.toml", roster)
    write_synced(folder / "record.json", msgspec.json.encode(record(sha256(study), sha256(roster))))


def read(folder: Path, coordinator: str) -> Approved:
    """What is approved; `Refused` where nothing is, or where a file or the coordinator is another one since."""
    study, roster, record = (folder / name for name in ("study.toml", "roster.toml", "record.json"))
    if not (study.exists() and roster.exists() and record.exists()):
        raise Refused(
            "study-not-approved", "no study is approved here", where=str(folder), fix="see `fedmodels client approve`"
        )
    pinned = _record(record)
    texts = {}
    for path, digest in ((study, pinned.study), (roster, pinned.roster)):
        texts[path] = path.read_bytes()
        if sha256(texts[path]) != digest:
            raise _changed(f"{path.name} is not the file that was approved, byte for byte", path)
    if pinned.coordinator != coordinator:
        raise _changed("this hospital was connected to another coordinator since", folder.parent / "invitation.toml")
    return Approved(
        parse_study(texts[study].decode(), str(study)), parse_roster(texts[roster].decode(), str(roster)), pinned
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _record(path: Path) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError:
        raise _changed("the record of the approval cannot be read", path) from None


def _changed(what: str, where: Path) -> Refused:
    return Refused("approval-changed", what, where=str(where), fix="approve study and roster again")
