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
    of messages that no line lists; problems: what is wrong, one sentence each.
    """

    messages: int = 0
    matching: int = 0
    absent: int = 0
    uploads: int = 0
    unused: int = 0
    unlisted: int = 0
    problems: list[str] = field(default_factory=list)


def prove(log: SentLog, charges: Sequence[Charge]) -> Proof:
    """Recompute chain and digests of everything kept, and compare uploads with the ledger's charges."""
    proof, previous = Proof(), ""
    releases: dict[_Release, set[str]] = defaultdict(set)
    listed: set[str] = set()
    for number, (line, data) in enumerate(log.lines(), 1):
        if line.previous != previous:
            proof.problems.append(f"line {number}: a line before it was edited, removed or reordered")
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
    files = [path for path in (kept / line.sha256, kept / (line.sha256 + UPLOAD)) if path.exists()]
    if not files or files[0].stat().st_size < line.bytes:
        proof.absent += 1
        return
    with files[0].open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == line.sha256
    if same and files[0].stat().st_size == line.bytes:
        proof.matching += 1
    else:
        proof.problems.append(f"line {number}: the bytes kept are not those that the line says")


def _against_ledger(proof: Proof, releases: dict[_Release, set[str]], charges: Sequence[Charge]) -> None:
    """Every upload has its charge. A charge without an upload is what a crash between the two leaves."""
    charged: dict[_Release, int] = defaultdict(int)
    for charge in charges:
        charged[charge.run_id.hex(), charge.session, charge.kind] += 1
    proof.uploads = sum(len(digests) for digests in releases.values())
    for release, digests in releases.items():
        if len(digests) > charged[release]:
            run, session, kind = release
            proof.problems.append(
                f"run {run[:16]}, session {session}, {kind}: {len(digests)} different uploads left for "
                f"{charged[release]} charges in the ledger"
            )
    proof.unused = sum(max(0, count - len(releases.get(release, ()))) for release, count in charged.items())
