"""The named checks of a transcript. Each looks at a `Case` and says what it examined and what is wrong.

A refused, failed or aborted round is in order: it leaves a charge without an upload, or a gap in the session numbers,
never an upload without a charge or a number twice.
"""

from collections.abc import Callable, Iterator
from typing import Literal

from client.ledger import Charge
from client.transcript.case import UPLOADS, Case, Found, count
from client.transcript.kept import Sent
from client.transcript.rosters import one_roster
from client.transcript.uniformity import FEWEST_WORDS, SIGNIFICANCE
from fedmodels import wire
from fedmodels.dp.plan import plan_for
from fedmodels.errors import RemoteProtocolError
from fedmodels.joining import verify_head

Check = Callable[[Case], Found]


def _log(case: Case) -> Found:
    """Every line of the log carries the digest of the line before it."""
    return Found(count(case.proof.messages, "message"), case.proof.broken)


def _bytes(case: Case) -> Found:
    """What is kept of a message is what its line says, byte for byte."""
    examined = f"{case.proof.messages - case.proof.absent} of {count(case.proof.messages, 'message')}"
    kept = f" (keep_sent_megabytes = {case.megabytes})" if case.proof.absent else ""
    return Found(examined + kept, case.proof.changed)


def _ledger(case: Case) -> Found:
    """Every row of the ledger is signed by this hospital and has the hash of the row before; its head is the last."""
    return Found(count(len(case.charges), "row"), [case.trouble] if case.trouble else [])


def _releases(case: Case) -> Found:
    """Every upload has a charge of its own in the ledger."""
    charges = f"{count(len(case.charges), 'charge')}, {case.proof.unused} of them unused"
    return Found(f"{count(case.proof.uploads, 'upload')}, {charges}", case.proof.uncharged)


def _mechanism(case: Case) -> Found:
    """Charges of the approved study are those of its plan: sampling rate, noise, steps, delta, evaluation epsilon."""
    problems, plan, privacy = [], plan_for(case.study), case.study.privacy
    charges = [(row, charge) for row, charge in enumerate(case.charges, 1) if case.approved(charge)]
    for row, charge in charges:
        event = plan.event(1) if plan and charge.kind == "train" else None
        told = (charge.sampling_rate, charge.noise_multiplier, charge.steps, charge.delta)
        right = (event.sampling_rate, event.noise_multiplier, event.steps, privacy.delta) if event else (0.0,) * 4
        pure = {0.0, privacy.evaluation_epsilon} if plan and charge.kind == "evaluate" else {0.0}
        if told != right or charge.mode != privacy.mode or charge.pure_epsilon not in pure:
            problems.append(f"row {row}: {charge.kind} was not charged as the study's plan says")
    return Found(f"{len(charges)} of {count(len(case.charges), 'charge')}: of the approved study", problems)


def _sessions(case: Case) -> Found:
    """Session numbers of a run only grow; the last answer may leave again, bit for bit."""
    problems = []
    last: dict[str, tuple[int, str]] = {}
    uploads = [(number, line) for number, line in enumerate(case.lines, 1) if line.kind in UPLOADS]
    for number, line in uploads:
        session, digest = line.session or 0, line.sha256
        before = last.get(line.run, (0, ""))
        if session < before[0] or (session == before[0] and digest != before[1]):
            problems.append(f"line {number}: an upload for session {session} after one for session {before[0]}")
        last[line.run] = max(before, (session, digest))
    charged: dict[bytes, int] = {}
    for row, charge in enumerate(case.charges, 1):
        if charge.session < charged.get(charge.run_id, 0):
            problems.append(f"row {row}: session {charge.session} was charged after session {charged[charge.run_id]}")
        charged[charge.run_id] = max(charge.session, charged.get(charge.run_id, 0))
    counts = f"{count(len(uploads), 'upload')} and {count(len(case.charges), 'charge')}"
    return Found(f"{counts} in {count(len(last), 'run')}", problems)


def _headers(case: Case) -> Found:
    """An upload says what its line says, its checksum is that of its vector, and the signed ledger head beside it is
    that of its own charge; so is the head at set-up one of this ledger."""
    problems = [f"line {m.number}: the message cannot be read" for m in case.sent if m.reply is None]
    public = case.roster.keys[case.name]
    rows = dict(zip(case.chain.hashes, case.charges, strict=True)) if case.chain else {}
    headed = [message for message in case.sent if isinstance(message.reply, wire.SetupReply | wire.ContributeReply)]
    for message in headed:
        found = _head_problem(public, rows, message)
        if message.line.kind in UPLOADS:
            found = [*_header_problems(case.name, message), *found]
        problems += [f"line {message.number}: {what}" for what in found]
    return Found(f"{count(len(headed), 'head')}, {len(case.uploads)} of them of uploads", problems)


def _head_problem(public: bytes, rows: dict[bytes, Charge], message: Sent) -> list[str]:
    head, line = getattr(message.reply, "head", b""), message.line
    if not head:
        return ["an upload without a ledger head"] if line.kind in UPLOADS else []
    try:
        charge = rows.get(verify_head(public, head))
    except RemoteProtocolError as error:
        return [error.what]
    if charge is None:
        return ["it was sent with the head of a row that the ledger does not have"]
    if line.kind in UPLOADS and (charge.run_id.hex(), charge.session, charge.kind) != (
        line.run,
        line.session,
        line.kind,
    ):
        return ["it was sent with the head of another upload's charge"]
    return []


def _header_problems(name: str, message: Sent) -> Iterator[str]:
    header = message.header
    if header is None:
        yield "the header of an upload cannot be read"
        return
    if (header.sender, header.session, header.words) != (name, message.line.session, message.words):
        yield "the header names another hospital, session or number of words"
    if not message.intact:
        yield "the checksum of an upload is not that of its vector"


def _uniform(case: Case) -> Found:
    """The bytes of each masked vector are uniformly random."""
    wrong = "not uniformly random: it was not masked, or not with a mask of its own"
    return _tested(case, "uniform", wrong, f"the others are not kept, or below {FEWEST_WORDS} words")


def _fresh(case: Case) -> Found:
    """The difference of two vectors that follow each other is uniformly random, too: no mask is used twice."""
    wrong = "not uniformly random against the vector before it: a mask was used twice"
    return _tested(case, "fresh", wrong, "the others have none of their length before them that is kept")


def _tested(case: Case, which: Literal["uniform", "fresh"], wrong: str, untested: str) -> Found:
    """Levels divide `SIGNIFICANCE` among all tests of both checks."""
    tested = [(message, chances) for message in case.uploads if (chances := getattr(message, which))]
    tests = sum(len(message.uniform) + len(message.fresh) for message in case.uploads)
    problems = [
        f"line {message.number}: {wrong} (one chance in {1.0 / max(min(chances), 1e-99):.2g})"
        for message, chances in tested
        if min(chances) < SIGNIFICANCE / tests
    ]
    left = "" if len(tested) == case.proof.uploads else f" ({untested}; keep_sent_megabytes = {case.megabytes})"
    examined = f"{len(tested)} of {count(case.proof.uploads, 'upload')}{left}"
    return Found(examined, problems, possible=bool(tested))


CHECKS: dict[str, Check] = {
    "log": _log,
    "bytes": _bytes,
    "ledger": _ledger,
    "releases": _releases,
    "mechanism": _mechanism,
    "sessions": _sessions,
    "one roster": one_roster,
    "headers": _headers,
    "uniform": _uniform,
    "fresh masks": _fresh,
}
NEEDS_LEDGER = {"releases", "mechanism", "sessions", "one roster", "headers"}
