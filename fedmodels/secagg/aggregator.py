"""The aggregator (the coordinator's side): collects set-up keys, opens `retry` sessions, adds uploads.

Nothing here is trusted by the contributors; its checks find faults early and name the hospital they come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RoundAborted
from fedmodels.secagg.keystream import MAX_WORDS, Vector
from fedmodels.secagg.messages import (
    RecoverRequest,
    SessionRequest,
    SetupKey,
    SetupKeys,
    UploadHeader,
    decode,
    encode,
)
from fedmodels.secagg.primitives import KEY_BYTES
from fedmodels.secagg.terms import Terms, check_setup_key, contributors_problem, session_digest, transcript
from fedmodels.secagg.uploads import Uploads


@dataclass(frozen=True)
class Aggregator:
    """State between messages: the set-up keys collected so far, and the smallest session number not yet used."""

    terms: Terms
    keys: Mapping[str, SetupKey] = field(default_factory=lambda: MappingProxyType({}))
    next_session: int = 1

    @property
    def missing(self) -> tuple[str, ...]:
        """The hospitals whose set-up key is not here yet, in roster order."""
        return tuple(name for name in self.terms.roster if name not in self.keys)


def collect(state: Aggregator, message: bytes) -> Aggregator:
    """Take a hospital's encoded `SetupKey`. The same again changes nothing; a second, different one is refused.

    Raises `RemoteProtocolError`, naming the hospital, for a sender outside the roster or a wrong signature.
    """
    key = decode(message, SetupKey)
    check_setup_key(state.terms, key)
    if state.keys.get(key.sender, key) != key:
        raise RemoteProtocolError(
            "it sent a second, different set-up key",
            where=f"hospital {key.sender}",
            fix="the hospital's protocol state was lost or copied: begin a new run",
        )
    return replace(state, keys=MappingProxyType({**state.keys, key.sender: key}))


def relay(state: Aggregator) -> bytes:
    """The encoded `SetupKeys` for every contributor; `LocalProtocolError` while keys are missing."""
    _require_complete(state)
    return encode(SetupKeys(tuple(state.keys[name] for name in state.terms.roster)))


def resume(terms: Terms, keys: bytes, next_session: int) -> Aggregator:
    """The state of a set-up that is over, from what `relay` gave and the smallest session number not yet used.

    For a coordinator that was restarted: hospitals go on with the run that they were set up for. A number that was
    used before is refused by every hospital, so whoever resumes keeps the number on disk before a session opens.
    """
    state = Aggregator(terms, next_session=next_session)
    for key in decode(keys, SetupKeys).keys:
        state = collect(state, encode(key))
    _require_complete(state)
    return state


def _require_complete(state: Aggregator) -> None:
    if state.missing:
        raise LocalProtocolError(
            "set-up keys are missing from " + ", ".join(state.missing),
            where="set-up",
            fix="wait for these hospitals, or begin a run with a roster that leaves them out",
        )


class Session:
    """One `retry` session: adds masked vectors as they come, in the memory of one vector.

    The sum comes out when all contributors are in; before that, and for ever if one stays away, there is nothing
    but `RoundAborted`. An upload that is refused leaves the session as it was.
    """

    def __init__(self, request: SessionRequest, digest: bytes, words: int) -> None:
        self.request = encode(request)
        self._uploads = Uploads(request, digest, words, UploadHeader)

    @property
    def missing(self) -> tuple[str, ...]:
        """The contributors whose upload is not here yet, in roster order."""
        return self._uploads.missing

    def add(self, header: bytes, vector: Vector) -> None:
        """Add one upload: an encoded `UploadHeader` and the vector beside it. The same upload again changes nothing.

        Raises `RemoteProtocolError`, naming the hospital, when the upload is not for this session (another number,
        model, list of contributors or set-up), damaged, or a second and different one. Sharp edge: an upload says
        itself whose it is; `check_sender` first.
        """
        self._uploads.add(header, vector)

    def result(self) -> Vector:
        """The sum of all contributors' vectors modulo 2^32; `RoundAborted` names those who are missing."""
        if self.missing:
            raise RoundAborted(
                self.missing,
                where=self._uploads.where,
                fix="run the round again without these hospitals, with fresh training and a new session number",
            )
        total = self._uploads.sum.view()
        total.flags.writeable = False
        return total


def open_session(
    state: Aggregator, session: int, contributors: tuple[str, ...], model_digest: bytes, words: int
) -> tuple[Aggregator, Session]:
    """Ask `contributors` (any order) for vectors of `words` uint32 under a session number that is new and larger.

    model_digest: 32 bytes over the global model and the round parameters that every contributor is sent;
    contributors compute it themselves. `Session.request` is the message for all of them.
    """
    request = SessionRequest(session, tuple(sorted(contributors)))
    bound = bind(state, request, model_digest, words)
    return replace(state, next_session=session + 1), Session(request, bound, words)


def bind(state: Aggregator, request: SessionRequest, model_digest: bytes, words: int) -> bytes:
    """The session digest h; `LocalProtocolError` for a session that contributors would refuse."""
    _require_complete(state)
    session = request.session
    problem = contributors_problem(state.terms, request.contributors)
    if not state.next_session <= session < 1 << 53:
        problem = f"the session number must be at least {state.next_session}"
    if len(model_digest) != KEY_BYTES or not 1 <= words <= MAX_WORDS:
        problem = f"a session needs a model digest of {KEY_BYTES} bytes and 1 to {MAX_WORDS} words"
    if isinstance(request, RecoverRequest) != (state.terms.on_dropout == "recover"):
        problem = f"the terms are for on_dropout `{state.terms.on_dropout}`"
    if problem:
        raise LocalProtocolError(problem, where=f"session {session}", fix="correct the call that opens the session")
    bound = transcript(state.terms, {name: key.key for name, key in state.keys.items()})
    return session_digest(bound, request, model_digest)
