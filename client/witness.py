"""Signed ledger heads: this hospital's own, which must be in its ledger, and those that it holds of the others.

A ledger and its head file that were restored together from an old copy agree with each other. They do not agree with
the head that other hospitals and the coordinator hold, and which the coordinator relays with every request. A relayed
head is signed, so that nobody can make up one that a ledger does not contain.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmodels.errors import FedmodelsError, Refused, RemoteProtocolError
from fedmodels.joining import verify_head
from fedmodels.study import Roster

_SCHEMA = """
CREATE TABLE IF NOT EXISTS heads (
    number INTEGER PRIMARY KEY, hospital TEXT NOT NULL, key BLOB NOT NULL, head BLOB NOT NULL, time TEXT NOT NULL,
    UNIQUE (key, head)
) STRICT
"""


def check_heads(heads: Mapping[str, bytes], own: str, roster: Roster, hashes: Sequence[bytes]) -> None:
    """Raise unless every head is signed by its hospital and this hospital's own is the hash of one of its rows.

    own: this hospital's name; hashes: of its ledger's rows. An empty head says that there was no row yet.
    `RemoteProtocolError`: a head of a hospital that is not on the roster, or that it did not sign. `Refused`
    (`ledger-restored`): the ledger here is older than what this hospital released.
    """
    for hospital, head in heads.items():
        if hospital not in roster.keys:
            raise RemoteProtocolError("a ledger head of a hospital that is not on the roster", where=hospital)
        if head and verify_head(roster.keys[hospital], head) not in hashes and hospital == own:
            raise Refused(
                "ledger-restored",
                "the ledger here does not contain the last row that the coordinator holds of this hospital: it is "
                "older than what was released",
                where="ledger.sqlite",
                fix="restore the newest copy of ledger.sqlite and ledger.head, and empty the folder `runs`; ask the "
                "other hospitals which head they hold (`fedmodels client ledger witness`)",
            )


@dataclass(frozen=True)
class Held:
    """The newest head held of another hospital. head: hash and signature; time: when it was first seen here."""

    hospital: str
    head: bytes
    time: str


class Witness:
    """`witness.sqlite`: every head of the other hospitals, in the order in which they were first seen.

    All are kept, because they have no order of their own: one that was seen before and is relayed again is an old one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, heads: Mapping[str, bytes], roster: Roster, time: str) -> None:
        """Keep heads that `check_heads` let pass."""
        rows = [(hospital, roster.keys[hospital], head, time) for hospital, head in heads.items() if head]
        if rows:
            with self._open() as database, database:
                database.execute(_SCHEMA)
                database.executemany(
                    "INSERT OR IGNORE INTO heads (hospital, key, head, time) VALUES (?, ?, ?, ?)", rows
                )

    def newest(self) -> list[Held]:
        """The newest head of each hospital, by name."""
        if not self._path.exists():
            return []
        with self._open() as database:
            rows = database.execute("SELECT hospital, head, time, MAX(number) FROM heads GROUP BY key").fetchall()
        return sorted((Held(*row[:3]) for row in rows), key=lambda held: held.hospital)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=30.0)) as database:
                database.execute("PRAGMA synchronous = NORMAL")
                yield database
        except sqlite3.DatabaseError as error:
            raise FedmodelsError(
                f"the heads of other hospitals cannot be read or written: {error}",
                where=str(self._path),
                fix="free the disk; if the file is damaged, move it away: the others still hold their own copies",
            ) from None
