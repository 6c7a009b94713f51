"""The coordinator's directory: what `server init` makes and the other commands use.

`coordinator.toml`, `pki/` (CA and server certificate), `secret` (between the link and whoever runs studies on this
machine), `invitation.toml` (for the hospitals), `roster.toml`, `link.sqlite`, `heads.json`, `runs/`. `link.lock` and
`run.lock` are held by the process that serves, and by the one that runs a study; they contain its number.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import tomli_w
from msgspec import Meta

from fedmodels import strict_toml
from fedmodels.errors import RunError, UsageError
from fedmodels.files import read_text, write_synced
from fedmodels.joining import ADDRESS, Invitation
from fedmodels.study import Hospital, parse_roster
from fedmodels.typed import Name, Strict
from server.pki import Pki, utc_now

Port = Annotated[int, Meta(ge=1, le=65535)]
_SECRET_BYTES = 32


class Settings(Strict, frozen=True):
    """`coordinator.toml`. address: host:port at which hospitals reach the link; listen: local address that its public
    listener binds to; internal_port: on loopback, for this machine's own commands."""

    name: Name
    address: Annotated[str, Meta(pattern=ADDRESS)]
    listen: str = "0.0.0.0"  # noqa: S104 - hospitals connect from other machines; the Fleet API alone answers there
    internal_port: Port = 9091

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


class Home:
    """One coordinator."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pki = Pki(directory / "pki")
        self.secret, self.database = directory / "secret", directory / "link.sqlite"
        self.invitation, self.roster_file = directory / "invitation.toml", directory / "roster.toml"
        self.heads, self.runs = directory / "heads.json", directory / "runs"

    @classmethod
    def create(cls, directory: Path, settings: Settings) -> "Home":
        """Make the directory, its keys and certificates. Never overwrites one."""
        if (directory / "coordinator.toml").exists():
            raise UsageError(
                "there is a coordinator in this folder already", where=str(directory), fix="choose another"
            )
        if not re.fullmatch(ADDRESS, settings.address) or not 1 <= settings.port <= 65535:
            raise UsageError(
                f"`{settings.address}` is not host:port", where="--address", fix="write host:port: fl.example.org:9443"
            )
        if settings.port == settings.internal_port:
            raise UsageError("both listeners have one port", where="--internal-port", fix="choose two different ports")
        home = cls(directory)
        for folder in (directory, directory / "pki", home.runs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.pki.create(settings.name, settings.host, utc_now())
        write_synced(home.secret, secrets.token_bytes(_SECRET_BYTES), mode=0o600)
        invitation = Invitation(settings.name, settings.address, home.pki.ca.read_text())
        write_synced(home.invitation, tomli_w.dumps(msgspec.to_builtins(invitation), multiline_strings=True).encode())
        write_synced(directory / "coordinator.toml", tomli_w.dumps(msgspec.to_builtins(settings)).encode())
        return home

    @property
    def settings(self) -> Settings:
        path = self.directory / "coordinator.toml"
        if not path.exists():
            raise UsageError("there is no coordinator in this folder", where=str(self.directory), fix="`server init`")
        return strict_toml.decode(read_text(path), Settings, str(path))

    # Who takes part

    @property
    def hospitals(self) -> tuple[Hospital, ...]:
        """The cards collected so far, in order of name."""
        if not self.roster_file.exists():
            return ()
        return parse_roster(read_text(self.roster_file), str(self.roster_file)).hospital

    def add_hospital(self, card: Hospital) -> None:
        """Put a card on the roster. A card with a key or name that is there already is refused, unless it is the same
        hospital with another declared size."""
        for known in self.hospitals:
            same_keys = (known.identity_key, known.node_key) == (card.identity_key, card.node_key)
            if known.name == card.name and not same_keys:
                raise UsageError(
                    f"`{card.name}` is on the roster with other keys",
                    where=str(self.roster_file),
                    fix="if its keys were made anew, remove it first: `server roster remove`",
                )
        if not card.node_key:
            raise UsageError("the card has no node key", where=card.name, fix="make it with `client init`")
        self._write_roster([h for h in self.hospitals if h.name != card.name] + [card])

    def remove_hospital(self, name: str) -> None:
        if name not in [hospital.name for hospital in self.hospitals]:
            raise UsageError(f"`{name}` is not on the roster", where=str(self.roster_file))
        self._write_roster([hospital for hospital in self.hospitals if hospital.name != name])

    def _write_roster(self, hospitals: list[Hospital]) -> None:
        if not hospitals:
            self.roster_file.unlink(missing_ok=True)
            return
        ordered = sorted(hospitals, key=lambda hospital: hospital.name)
        content = tomli_w.dumps({"hospital": msgspec.to_builtins(ordered)})
        parse_roster(content, "the roster with the new card")
        write_synced(self.roster_file, content.encode())

    # One process at a time

    @contextmanager
    def hold(self, lock: str) -> Iterator[None]:
        """Hold `link` or `run`; `RunError` where another process does."""
        with self._lock(lock).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = "the link is up already" if lock == "link" else "a study is running already"
                raise RunError(
                    what, where=str(self.directory), fix="`server status` shows it, `server stop` ends it"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def holder(self, lock: str) -> int | None:
        """The process that holds `link` or `run`, None where nobody does."""
        path = self._lock(lock)
        if not path.exists():
            return None
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
        return None

    def _lock(self, lock: str) -> Path:
        return self.directory / f"{lock}.lock"
