"""A hospital is a directory, and this is what its own people put there and what it keeps.

| file | what it holds |
|---|---|
| `name` | the hospital's name |
| `identity.key`, `node.key` | its private keys (0600), see `keys` |
| `card.toml` | what it gives to others: name, public keys, declared size |
| `policy.toml` | what it agrees to, see `policy` |
| `data.toml` | where its records are |
| `invitation.toml` | the coordinator it is connected to; absent in a simulation |
| `approved/` | study, roster and record of who approved them, see `approval` |
| `ledger.sqlite`, `ledger.head` | the privacy ledger, see `ledger` |
| `witness.sqlite` | the ledger heads of the other hospitals, see `witness` |
| `log.jsonl`, `sent/` | every message out, see `sentlog` |
| `personal/` | layers of models that never leave (0600), see `ownlayers`; absent where no study has such |
| `runs/` | protocol state of runs (0600), see `runfiles`: never restore it from a backup |
| `results/` | how good each evaluated model is on its own test patients (0600), see `ownresults` |
| `errors.log` | what went wrong, for its own people |
"""

import fcntl
import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import msgspec
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client import approval
from client.keys import identity_of, make_keys, node_public_of
from client.ledger import Ledger
from client.policy import DEFAULT, Policy
from client.sentlog import SentLog
from client.witness import Witness
from fedmodels import strict_toml
from fedmodels.data.binding_kinds import DataBinding
from fedmodels.errors import Refused, UsageError
from fedmodels.files import read_text, write_synced
from fedmodels.joining import Invitation, parse_invitation
from fedmodels.study import Hospital, Roster, Study, check_roster, parse_roster, parse_study


def create_site(directory: Path, name: str, policy: str = DEFAULT) -> None:
    """Make a site directory with new keys, readable by this user only. Never overwrites one."""
    if (directory / "identity.key").exists():
        raise UsageError(
            "there is a hospital in this folder already", where=str(directory), fix="choose another folder"
        )
    for folder in (directory, directory / "approved", directory / "runs", directory / "sent"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_synced(directory / "policy.toml", policy.encode())
    write_synced(directory / "name", f"{name}\n".encode())
    make_keys(directory)


def declared_size(patients: int) -> int:
    """A number of patients rounded to two significant digits, at least 1: what a hospital would declare publicly."""
    return max(1, int(float(f"{patients:.1e}")))


def bind(directory: Path, binding: DataBinding) -> None:
    """Write the binding, its paths already absolute, as the `data.toml` of a site directory."""
    content = _without_none(msgspec.to_builtins(binding))
    write_synced(directory / "data.toml", tomli_w.dumps(content).encode())


class SiteFolder:
    """The files of one hospital. `now` is the clock that stamps whatever is written."""

    def __init__(self, directory: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.directory, self._now = directory, now
        self.ledger_path = directory / "ledger.sqlite"
        self.sent = SentLog(directory)
        self.witness = Witness(directory / "witness.sqlite")

    @property
    def time(self) -> str:
        """Now, as it is written into files."""
        return self._now().isoformat(timespec="seconds")

    @property
    def minute(self) -> int:
        """Minute of the day, in the hospital's local time."""
        local = self._now().astimezone()
        return 60 * local.hour + local.minute

    @cached_property
    def name(self) -> str:
        return read_text(self.directory / "name").strip()

    @cached_property
    def identity(self) -> Ed25519PrivateKey:
        return identity_of(self.directory)

    def card(self, declared_size: int) -> Hospital:
        """What others need to know of this hospital to put it on a roster."""
        public = self.identity.public_key().public_bytes_raw().hex()
        return Hospital(self.name, public, declared_size, node_public_of(self.directory))

    @cached_property
    def policy(self) -> Policy:
        path = self.directory / "policy.toml"
        return strict_toml.decode(read_text(path), Policy, str(path))

    @cached_property
    def invitation(self) -> Invitation | None:
        """Of the coordinator that this hospital's own people connected it to."""
        path = self.directory / "invitation.toml"
        return parse_invitation(read_text(path), str(path)) if path.exists() else None

    @property
    def coordinator(self) -> str:
        """The coordinator's fingerprint, empty without an invitation."""
        return self.invitation.fingerprint if self.invitation else ""

    def approve(self, study: bytes, roster: bytes) -> None:
        """Pin a study and a roster (TOML text), and the coordinator, as what this hospital takes part in.

        `UsageError` where they do not belong together or the roster does not have this hospital with its own keys.
        """
        self.check_roster(parse_study(study.decode()), parse_roster(roster.decode()))
        policy = approval.sha256((self.directory / "policy.toml").read_bytes())

        def record(study_digest: str, roster_digest: str) -> approval.Record:
            return approval.Record(study_digest, roster_digest, policy, self.coordinator, _user(), self.time)

        with self.locked():
            approval.pin(self.directory / "approved", study, roster, record)

    def check_roster(self, study: Study, roster: Roster) -> None:
        """Raise `UsageError` unless the roster is one of this study and has this hospital with its own keys."""
        check_roster(study, roster)
        listed = {hospital.name: hospital for hospital in roster.hospital}.get(self.name)
        if listed != self.card(listed.declared_size if listed else 1):
            raise UsageError(
                "this hospital is not on the roster with its own keys",
                where="roster.toml",
                fix="send the coordinator the card of this site directory (card.toml)",
            )

    @cached_property
    def approved(self) -> approval.Approved:
        return approval.read(self.directory / "approved", self.coordinator)

    @property
    def study(self) -> Study:
        return self.approved.study

    @property
    def roster(self) -> Roster:
        return self.approved.roster

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.ledger_path, self.identity)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in this directory; `Refused` (`busy`) while another request or an approval is being worked on."""
        with (self.directory / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused("busy", "another request is being worked on", fix="ask again later") from None
            yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _without_none(value: dict[str, object]) -> dict[str, object]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in value.items() if v not in (None, "")}
