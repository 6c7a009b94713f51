"""How much of the log of what left can be proven: against itself, against the bytes kept, and against the ledger."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.ledger import Charge
from client.sentlog import UPLOAD, Line, SentLog, line_hash

_Release = tuple[str, int | None, str]  # run, session, kind


@dataclass
class Proof:
    """What `prove` found.

    messages: lines of the log; matching: messages of which the bytes are kept and are those that the line says; absent:
    messages of which they are not kept, or not whole; uploads: masked vectors that left, repeated ones counted once;
    unused: charges of the ledger for which no upload is listed, as a crash between the two leaves; unlisted: files kept
    of messages that no line lists. What is wrong, one sentence each: broken: with the chain of lines; changed: with
    bytes that are kept; uncharged: with uploads against charges.
    """

    messages: int = 0
    matching: int = 0
    absent: int = 0
    uploads: int = 0
    unused: int = 0
    unlisted: int = 0
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    uncharged: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All that is wrong."""
        return [*self.broken, *self.changed, *self.uncharged]


def prove(log: SentLog, charges: Sequence[Charge]) -> Proof:
    """Recompute chain and digests of everything kept, and compare uploads with the ledger's charges."""
    proof, previous = Proof(), ""
    releases: dict[_Release, set[str]] = defaultdict(set)
    listed: set[str] = set()
    for number, (line, data) in enumerate(log.lines(), 1):
        if line.previous != previous:
            proof.broken.append(f"line {number}: a line before it was edited, removed or reordered")
        previous = line_hash(data)
        proof.messages = number
        listed.add(line.sha256)
        _compare(proof, log.kept, line, number)
        if line.kind in ("train", "evaluate"):
            releases[line.run, line.session, line.kind].add(line.sha256)
    _against_ledger(proof, releases, charges)
    if log.kept.exists():
        proof.unlisted = sum(path.name.removesuffix(UPLOAD) not in listed for path in log.kept.iterdir())
    return proof


def _compare(proof: Proof, kept: Path, line: Line, number: int) -> None:
    """Count a line as proven or not, by the file of its message."""
    path = file_of(kept, line)
    if path is None:
        proof.absent += 1
    elif proven(path, line):
        proof.matching += 1
    else:
        proof.changed.append(f"line {number}: the bytes kept are not those that the line says")


def file_of(kept: Path, line: Line) -> Path | None:
    """The file of a line's message, None where it is not kept, or not whole."""
    files = [path for path in (kept / line.sha256, kept / (line.sha256 + UPLOAD)) if path.exists()]
    return files[0] if files and files[0].stat().st_size >= line.bytes else None


def proven(path: Path, line: Line) -> bool:
    """Whether the file holds exactly the bytes that the line says."""
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == line.sha256
    return same and path.stat().st_size == line.bytes


def _against_ledger(proof: Proof, releases: dict[_Release, set[str]], charges: Sequence[Charge]) -> None:
    """Every upload has its charge. A charge without an upload is what a crash between the two leaves."""
    charged: dict[_Release, int] = defaultdict(int)
    for charge in charges:
        charged[charge.run_id.hex(), charge.session, charge.kind] += 1
    proof.uploads = sum(len(digests) for digests in releases.values())
    for release, digests in releases.items():
        if len(digests) > charged[release]:
            run, session, kind = release
            proof.uncharged.append(
                f"run {run[:16]}, session {session}, {kind}: {len(digests)} different uploads left for "
                f"{charged[release]} charges in the ledger"
            )
    proof.unused = sum(max(0, count - len(releases.get(release, ()))) for release, count in charged.items())
