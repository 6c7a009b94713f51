"""The check that a run has one roster, and a session one list of contributors and one of dropouts."""

from collections import defaultdict
from collections.abc import Iterator

from client.transcript.case import UPLOADS, Case, Found, count
from fedmodels import wire
from fedmodels.errors import FedmodelsError, RemoteProtocolError
from fedmodels.secagg.messages import Pairs, SetupKey, Shares, decode
from fedmodels.secagg.terms import check_setup_key

_Session = tuple[str, int | None]  # run in hex, number


def one_roster(case: Case) -> Found:
    """A run has one study and roster, which set-up keys are signed for; a session has one kind, round and list of
    contributors, all of the roster; and what was revealed to unmask it fits one list of dropouts."""
    problems = [*_rosters_of_runs(case), *_rosters_of_sessions(case), *_setup_keys(case), *_reveals(case)]
    sessions = {(charge.run_id, charge.session) for charge in case.charges}
    keys = sum(isinstance(message.reply, wire.SetupReply) for message in case.sent)
    revealed = sum(isinstance(message.reply, wire.UnmaskReply) for message in case.sent)
    counts = (count(len(sessions), "session"), count(keys, "set-up key"), f"{revealed} times unmasked")
    return Found(", ".join(counts), problems)


def _rosters_of_runs(case: Case) -> Iterator[str]:
    runs: dict[bytes, set[tuple[bytes, bytes]]] = defaultdict(set)
    for charge in case.charges:
        runs[charge.run_id].add((charge.study_digest, charge.roster_digest))
    for run, agreed in runs.items():
        if len(agreed) > 1:
            yield f"run {run.hex()[:16]}: charged under {len(agreed)} different studies or rosters"


def _rosters_of_sessions(case: Case) -> Iterator[str]:
    left = {(line.run, line.session) for line in case.lines if line.kind in UPLOADS}
    asked: dict[_Session, set[tuple[object, ...]]] = defaultdict(set)
    digests: dict[_Session, set[bytes]] = defaultdict(set)
    for charge in case.charges:
        asked[charge.run_id.hex(), charge.session].add((charge.kind, charge.round, charge.contributors))
    for message in case.uploads:
        if message.header:
            digests[message.line.run, message.line.session].add(message.header.session_digest)
    for (run, session), ways in asked.items():
        if len(ways) > 1 and (run, session) in left:
            yield f"run {run[:16]}, session {session}: charged for {len(ways)} different requests, and an upload left"
    for (run, session), masked in digests.items():
        if len(masked) > 1:
            yield f"run {run[:16]}, session {session}: uploads were masked for {len(masked)} different sets of terms"
    every = [digest for masked in digests.values() for digest in masked]
    if len(set(every)) < len(every):
        yield "two sessions have one session digest, and so the same masks"
    least = case.study.federation.min_contributors
    for row, charge in enumerate(case.charges, 1):
        names = set(charge.contributors)
        if case.approved(charge) and not (
            names <= case.roster.keys.keys() and case.name in names and len(names) >= least
        ):
            yield f"row {row}: its contributors are not {least} or more of the roster, this hospital among them"


def _setup_keys(case: Case) -> Iterator[str]:
    """One per run, signed for what is approved where the run was charged under it."""
    keys: dict[str, set[bytes]] = defaultdict(set)
    approved = {charge.run_id.hex() for charge in case.charges if case.approved(charge)}
    for message in case.sent:
        if not isinstance(message.reply, wire.SetupReply):
            continue
        run, where = message.line.run, f"line {message.number}"
        keys[run].add(message.reply.key_message)
        if run in approved:
            try:
                key = decode(message.reply.key_message, SetupKey)
                check_setup_key(wire.terms(case.study, case.roster, bytes.fromhex(run)), key)
            except FedmodelsError as error:
                yield f"{where}: {error.what}"
    for run, announced in keys.items():
        if len(announced) > 1:
            yield f"run {run[:16]}: {len(announced)} different set-up keys were announced"


def _reveals(case: Case) -> Iterator[str]:
    """Lists of dropouts of one session only grow, and nothing is revealed about anybody else after the shares."""
    dropped: dict[bytes, set[str]] = defaultdict(set)
    done: dict[bytes, bytes] = {}
    known = {message.header.session_digest for message in case.uploads if message.header}
    whole = len(case.uploads) == len({line.sha256 for line in case.lines if line.kind in UPLOADS})
    for message in case.sent:
        if not isinstance(message.reply, wire.UnmaskReply):
            continue
        where, revealed = f"line {message.number}", _revealed(message.reply.message)
        if revealed is None:
            yield f"{where}: what was revealed cannot be read"
            continue
        digest, before = revealed.session_digest, dropped[revealed.session_digest]
        final = isinstance(revealed, Shares)
        if done.get(digest, message.reply.message) != message.reply.message:
            yield f"{where}: secrets of a session were revealed after its last step"
        if not (before == set(revealed.dropped) if final else before <= set(revealed.dropped)):
            yield f"{where}: a hospital that had dropped out was unmasked as one that had not"
        if digest not in known and whole:
            yield f"{where}: secrets of a session were revealed to which nothing was uploaded"
        before |= set(revealed.dropped)
        if final:
            done[digest] = message.reply.message


def _revealed(data: bytes) -> Pairs | Shares | None:
    try:
        return decode(data, Pairs)
    except RemoteProtocolError:
        pass
    try:
        return decode(data, Shares)
    except RemoteProtocolError:
        return None
