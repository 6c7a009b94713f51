"""The hospital's privacy ledger: one row per release, written and synced before the upload leaves.

SQLite, append-only; each row carries the hash of the one before and the hospital's signature over its own hash. A head
file beside it holds the number and hash of the last row. Reading checks all of it, so that an edited, removed or
reordered row is found, also at the end; that an old copy of both files together was restored is found by `witness`. A
crash between charge and upload costs budget, never privacy.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmodels.dp.accounting import SampledGaussian, epsilon_upper
from fedmodels.errors import FedmodelsError
from fedmodels.files import write_synced
from fedmodels.typed import Strict

_GENESIS = bytes(32)
_RESTORE = (
    "nothing was released; free the disk, or restore the newest backup of the ledger and its head, and empty the "
    "folder runs: protocol state must never be restored"
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, charge BLOB NOT NULL, previous BLOB NOT NULL,
    hash BLOB NOT NULL, signature BLOB NOT NULL
) STRICT
"""


class Charge(Strict, frozen=True):
    """One release. Gaussian steps compose within a study; pure_epsilon (evaluation counts) adds up.

    model: the `weights_digest` of the global model that it was computed from.
    """

    study_digest: bytes
    roster_digest: bytes
    run_id: bytes
    session: int
    kind: str
    round: int
    contributors: tuple[str, ...]
    time: str
    mode: str
    sampling_rate: float = 0.0
    noise_multiplier: float = 0.0
    steps: int = 0
    delta: float = 0.0
    pure_epsilon: float = 0.0
    model: bytes = b""


@dataclass(frozen=True)
class Chain:
    """A ledger of which every row was checked: the charges in order, and the hash of the row of each."""

    charges: tuple[Charge, ...] = ()
    hashes: tuple[bytes, ...] = ()


class LedgerError(FedmodelsError):
    """The ledger is not what this hospital wrote."""


class Ledger:
    """The ledger of one site directory. `identity` signs rows and checks them."""

    def __init__(self, path: Path, identity: Ed25519PrivateKey) -> None:
        self._path, self._identity = path, identity
        self._head = path.with_suffix(".head")
        if self._head.exists() and not path.exists():
            raise LedgerError("the ledger is gone, its head is still there", where=str(path), fix=_RESTORE)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=30.0)
        try:
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute(_SCHEMA)
            yield database
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"the ledger cannot be read or written: {error}",
                where=str(self._path),
                fix=_RESTORE,
            ) from None
        finally:
            database.close()

    def append(self, charge: Charge) -> bytes:
        """Write and sync one charge; returns the hash of its row. On return it survives a crash.

        On an error nothing is to be released; the charge may have been made.
        """
        body = msgspec.msgpack.encode(charge)
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            last = database.execute("SELECT number, hash FROM ledger ORDER BY number DESC LIMIT 1").fetchone()
            number, previous = (last[0] + 1, last[1]) if last else (1, _GENESIS)
            if last and self._head_number() == last[0] - 1:
                self._write_head(*last)  # it may be one row behind, never two
            digest = _row_hash(number, body, previous)
            row = (number, body, previous, digest, self._identity.sign(digest))
            database.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)
            database.execute("COMMIT")
        self._write_head(number, digest)
        return digest

    def _head_number(self) -> int:
        return int.from_bytes(self._head.read_bytes()[:8], "big") if self._head.exists() else 0

    def _write_head(self, number: int, digest: bytes) -> None:
        try:
            write_synced(self._head, number.to_bytes(8, "big") + digest, mode=0o600)
        except OSError as error:
            raise LedgerError(
                f"the ledger's head cannot be written: {error.strerror}", where=str(self._head), fix=_RESTORE
            ) from None

    def chain(self) -> Chain:
        """Everything, after checking all of it; `LedgerError` names the first bad row."""
        if not self._path.exists():
            return Chain()
        with self._open() as database:
            rows = database.execute("SELECT * FROM ledger ORDER BY number").fetchall()
        public, previous, charges = self._identity.public_key(), _GENESIS, []
        for position, (number, body, before, digest, signature) in enumerate(rows, 1):
            try:
                public.verify(signature, digest)
            except InvalidSignature:
                raise self._broken(position, "its signature is not this hospital's") from None
            if number != position or before != previous or digest != _row_hash(number, body, before):
                raise self._broken(position, "a row was edited, removed or reordered")
            charges.append(msgspec.msgpack.decode(body, type=Charge))
            previous = digest
        hashes = tuple(row[3] for row in rows)
        self._check_head([_GENESIS, *hashes])
        return Chain(tuple(charges), hashes)

    def charges(self) -> list[Charge]:
        """All charges in order, checked as `chain` does."""
        return list(self.chain().charges)

    def _check_head(self, hashes: list[bytes]) -> None:
        """The head is that of the last row, or of the one before where a crash came between the two writes."""
        if not self._head.exists():
            if len(hashes) > 2:
                raise LedgerError("the ledger's head is gone", where=str(self._head), fix=_RESTORE)
            return
        head = self._head.read_bytes()
        number = int.from_bytes(head[:8], "big")
        if number not in (len(hashes) - 1, len(hashes) - 2) or head[8:] != hashes[number]:
            raise self._broken(len(hashes), "rows were removed at the end")

    def _broken(self, number: int, why: str) -> LedgerError:
        return LedgerError(
            f"row {number} does not verify: {why}",
            where=str(self._path),
            fix="find out who changed it; this hospital contributes nothing until it is restored",
        )


def _row_hash(number: int, body: bytes, previous: bytes) -> bytes:
    return hashlib.sha256(b"fedmodels/ledger/v1" + number.to_bytes(8, "big") + previous + body).digest()


def epsilon_of(charges: Sequence[Charge], study_digest: bytes) -> tuple[float, float]:
    """(this study, all other studies): pessimistic epsilon, each study at its own delta, studies summed.

    A release without privacy costs infinity.
    """
    pure: dict[bytes, float] = {study_digest: 0.0}
    steps: dict[tuple[bytes, float], Counter[tuple[float, float]]] = {}
    for charge in charges:
        cost = float("inf") if charge.mode == "none" else charge.pure_epsilon
        pure[charge.study_digest] = pure.get(charge.study_digest, 0.0) + cost
        if charge.steps:
            counter = steps.setdefault((charge.study_digest, charge.delta), Counter())
            counter[charge.sampling_rate, charge.noise_multiplier] += charge.steps
    spent = dict(pure)
    for (digest, delta), counter in steps.items():
        events = tuple(SampledGaussian(rate, noise, count) for (rate, noise), count in sorted(counter.items()))
        spent[digest] += epsilon_upper(events, delta)
    return spent[study_digest], sum(value for digest, value in spent.items() if digest != study_digest)
