"""The aggregator (the coordinator's side): collects set-up keys, opens sessions, adds uploads.

Nothing here is trusted by the contributors; its checks find faults early and name the hospital they come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RoundAborted
from fedmodels.secagg.keystream import MAX_WORDS, WORD, Vector, checksum, is_vector
from fedmodels.secagg.messages import SessionRequest, SetupKey, SetupKeys, UploadHeader, decode, encode
from fedmodels.secagg.primitives import KEY_BYTES
from fedmodels.secagg.terms import Terms, check_setup_key, contributors_problem, session_digest, transcript


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


def _require_complete(state: Aggregator) -> None:
    if state.missing:
        raise LocalProtocolError(
            "set-up keys are missing from " + ", ".join(state.missing),
            where="set-up",
            fix="wait for these hospitals, or begin a run with a roster that leaves them out",
        )


class Session:
    """One session: adds masked vectors as they come, in the memory of one vector.

    The sum comes out when all contributors are in; before that, and for ever if one stays away, there is nothing
    but `RoundAborted`. An upload that is refused leaves the session as it was.
    """

    def __init__(self, request: SessionRequest, digest: bytes, words: int) -> None:
        self.request = encode(request)
        self._request, self._digest = request, digest
        self._sum: Vector = np.zeros(words, WORD)
        self._headers: dict[str, UploadHeader] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """The contributors whose upload is not here yet, in roster order."""
        return tuple(name for name in self._request.contributors if name not in self._headers)

    def add(self, header: bytes, vector: Vector) -> None:
        """Add one upload: an encoded `UploadHeader` and the vector beside it. The same upload again changes nothing.

        Raises `RemoteProtocolError`, naming the hospital, when the upload is not for this session (another number,
        model, list of contributors or set-up), damaged, or a second and different one.
        """
        upload = decode(header, UploadHeader)
        if problem := self._problem(upload, vector):
            known = upload.sender in self._request.contributors
            raise RemoteProtocolError(
                problem,
                where=f"session {self._request.session}" + (f", hospital {upload.sender}" if known else ""),
                fix="leave this hospital out and open a new session",
            )
        if upload.sender not in self._headers:
            np.add(self._sum, vector, out=self._sum)
            self._headers[upload.sender] = upload

    def _problem(self, upload: UploadHeader, vector: Vector) -> str:
        if upload.sender not in self._request.contributors:
            return "an upload comes from a sender that is not one of the contributors"
        if upload.session != self._request.session:
            return f"the upload is for session {upload.session}"
        if upload.session_digest != self._digest:
            return "the upload was masked for another model, list of contributors or set-up"
        if self._headers.get(upload.sender, upload) != upload:
            return "it sent a second, different upload"
        if not is_vector(vector) or not vector.size == upload.words == self._sum.size:
            return f"the upload does not have {self._sum.size} words of uint32"
        if checksum(self._digest, upload.sender, vector) != upload.checksum:
            return "the upload was damaged on its way"
        return ""

    def result(self) -> Vector:
        """The sum of all contributors' vectors modulo 2^32; `RoundAborted` names those who are missing."""
        if self.missing:
            raise RoundAborted(
                self.missing,
                where=f"session {self._request.session}",
                fix="run the round again without these hospitals, with fresh training and a new session number",
            )
        total = self._sum.view()
        total.flags.writeable = False
        return total


def open_session(
    state: Aggregator, session: int, contributors: tuple[str, ...], model_digest: bytes, words: int
) -> tuple[Aggregator, Session]:
    """Ask `contributors` (any order) for vectors of `words` uint32 under a session number that is new and larger.

    model_digest: 32 bytes over the global model and the round parameters that every contributor is sent;
    contributors compute it themselves. `Session.request` is the message for all of them.
    """
    _require_complete(state)
    request = SessionRequest(session, tuple(sorted(contributors)))
    problem = contributors_problem(state.terms, request.contributors)
    if not state.next_session <= session < 1 << 53:
        problem = f"the session number must be at least {state.next_session}"
    if len(model_digest) != KEY_BYTES or not 1 <= words <= MAX_WORDS:
        problem = f"a session needs a model digest of {KEY_BYTES} bytes and 1 to {MAX_WORDS} words"
    if problem:
        raise LocalProtocolError(problem, where=f"session {session}", fix="correct the call that opens the session")
    bound = transcript(state.terms, {name: key.key for name, key in state.keys.items()})
    opened = Session(request, session_digest(bound, request, model_digest), words)
    return replace(state, next_session=session + 1), opened
