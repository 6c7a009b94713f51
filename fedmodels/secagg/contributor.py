"""A contributor (a hospital) as pure functions `(state, message, randomness) -> (state, reply)`: set-up and `retry`.

There is no I/O here: whoever calls persists the new state (`storage.dump`) *before* it sends the reply. What is legal
when stands in `states.TRANSITIONS`. The `recover` round is in `recovery`.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmodels.errors import LocalProtocolError, RemoteProtocolError
from fedmodels.secagg.keystream import Vector, is_vector, mask_in_place
from fedmodels.secagg.messages import (
    RecoverRequest,
    SessionRequest,
    SetupKey,
    SetupKeys,
    UploadHeader,
    decode,
    decode_request,
    encode,
)
from fedmodels.secagg.primitives import (
    KEY_BYTES,
    Label,
    Randomness,
    Secret,
    derive,
    digest,
    ed25519_sign,
    hkdf,
    x25519,
    x25519_public,
)
from fedmodels.secagg.states import FINISH_SETUP, UPLOAD, Announced, Ready, SetUp, State, enter, ready_of
from fedmodels.secagg.terms import (
    Terms,
    check_setup_key,
    contributors_problem,
    session_digest,
    setup_statement,
    transcript,
)

MAX_SKIPPED_SESSIONS = 1000


@dataclass(frozen=True)
class Upload:
    """What leaves the hospital: an encoded `UploadHeader` (`recover`: `RecoverHeader`) and the masked vector."""

    header: bytes
    vector: Vector


def begin_setup(terms: Terms, name: str, identity: Ed25519PrivateKey, random: Randomness) -> tuple[Announced, bytes]:
    """A fresh ephemeral key, and the signed message that announces it.

    identity: the private half of this hospital's key in the roster, else `LocalProtocolError`; it is not kept.
    """
    if terms.roster.get(name) != identity.public_key().public_bytes_raw():
        raise LocalProtocolError(
            "this hospital's name and identity key are not on the roster",
            where="set-up",
            fix="use the key file that belongs to the roster's entry, or have the roster corrected and approved",
        )
    secret = Secret(random(KEY_BYTES))
    key = x25519_public(secret)
    message = encode(SetupKey(name, key, ed25519_sign(identity, setup_statement(terms, name, key))))
    return Announced(terms, name, secret, message), message


def finish_setup(state: State, relayed: bytes) -> Ready:
    """Verify the keys of all hospitals, agree on a chain key with each, and erase the ephemeral secret.

    relayed: an encoded `SetupKeys`. Raises `RemoteProtocolError`, naming the hospital, unless these are exactly the
    roster's hospitals, every signature verifies, and this hospital's own key is the one it announced.
    """
    announced = enter(FINISH_SETUP, state)
    terms, name = announced.terms, announced.name
    messages = decode(relayed, SetupKeys).keys
    if tuple(message.sender for message in messages) != tuple(terms.roster):
        raise RemoteProtocolError(
            "the relayed set-up keys are not those of exactly the roster's hospitals",
            where="set-up",
            fix="compare this hospital's roster with the coordinator's",
        )
    for message in messages:
        check_setup_key(terms, message)
    keys = {message.sender: message.key for message in messages}
    if keys[name] != x25519_public(announced.secret):
        raise _bad_key(name, "the relayed set-up key is not the one that this hospital announced")
    salt = transcript(terms, keys)
    chains: dict[str, Secret] = {}
    for peer, key in keys.items():
        if peer == name:
            continue
        shared = x25519(announced.secret, key)
        if shared is None or key == keys[name]:
            raise _bad_key(peer, "its set-up key is unusable: of low order, or a copy of ours")
        first, second = sorted((name, peer))
        info = digest(Label.PAIR, first.encode(), second.encode())
        chains[peer] = Secret(hkdf(shared.reveal(), salt, info))
    return Ready(terms, name, salt, 1, MappingProxyType(chains))


def _bad_key(hospital: str, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(what, where=f"hospital {hospital}", fix="begin a new run, with new keys")


def upload(
    state: State, request: bytes, model_digest: bytes, vector: Vector, *, in_place: bool = False
) -> tuple[Ready, Upload]:
    """Mask `vector` for exactly the contributors of the session, and ratchet all chain keys past it.

    request: an encoded `SessionRequest`. model_digest: 32 bytes, computed *here* over the global model and the round
    parameters that this hospital received, never taken from the coordinator. vector: uint32, left as it is; in_place:
    it becomes the `Upload`'s vector instead, which saves a copy.

    Formal guarantee: unless every contributor uploads for the same set-up, session, model and contributors, what
    leaves is uniformly random to everybody but these contributors. No state can mask for the same session twice.
    Requests that the protocol does not allow raise `RemoteProtocolError`, a wrong vector or digest
    `LocalProtocolError`.

    Sharp edges: persist the returned state before sending, never restore an older one, and never pass the same
    update in two sessions: a coordinator that hides an upload can open both sums and subtract them. To answer the
    same request again after a lost reply, keep the `Upload` beside the state and send it where `is_repeat` says so.
    """
    ready = enter(UPLOAD, state)
    asked = check_request(ready, request)
    current = begin_upload(ready, asked, model_digest, vector)
    binding = session_digest(ready.transcript, asked, model_digest)
    seeds = pair_seeds(current, asked, binding)
    masked = vector if in_place else vector.copy()
    proof = mask_in_place(
        masked,
        plus=[seed for peer, seed in seeds.items() if ready.name < peer],
        minus=[seed for peer, seed in seeds.items() if ready.name > peer],
        session=binding,
        sender=ready.name,
    )
    header = UploadHeader(ready.name, asked.session, binding, masked.size, proof)
    return end_upload(current, request, model_digest), Upload(encode(header), masked)


def is_repeat(state: SetUp, request: bytes, model_digest: bytes) -> bool:
    """Whether the last upload answered this very request and model: then send that `Upload` again, bit for bit.

    Nothing else may be sent: `upload` refuses the session as over, so no second vector is ever masked for it.
    """
    return ready_of(state).answered == digest(Label.ANSWERED, request, model_digest)


def check_request(state: SetUp, request: bytes) -> SessionRequest:
    """What an upload would be asked for; `RemoteProtocolError` if it would refuse. Call it before hours of training.

    It is a `RecoverRequest` exactly where the terms say `recover`: which kind of round this is, is never the
    coordinator's choice.
    """
    asked = decode_request(request)
    if problem := _request_problem(ready_of(state), asked):
        raise RemoteProtocolError(problem, where=f"session {asked.session}", fix="the coordinator must ask differently")
    return asked


def _request_problem(state: Ready, request: SessionRequest) -> str:
    kind = "recover" if isinstance(request, RecoverRequest) else "retry"
    if kind != state.terms.on_dropout:
        return f"this is a request for a `{kind}` round, but the approved study says `{state.terms.on_dropout}`"
    if request.session < state.next_session:
        return f"this session is over: the next one is {state.next_session}"
    if request.session - state.next_session > MAX_SKIPPED_SESSIONS:
        return f"more than {MAX_SKIPPED_SESSIONS} sessions are skipped: the next one is {state.next_session}"
    if state.name not in request.contributors:
        return "this hospital is not one of the contributors"
    return contributors_problem(state.terms, request.contributors)


def begin_upload(ready: Ready, asked: SessionRequest, model_digest: bytes, vector: Vector) -> Ready:
    """The state whose chain keys are those of the session, once the caller's arguments are checked."""
    if len(model_digest) != KEY_BYTES or not is_vector(vector):
        raise LocalProtocolError(
            f"an upload needs a digest of {KEY_BYTES} bytes and a contiguous one-dimensional vector of uint32",
            where=f"session {asked.session}",
            fix="encode the update with `Lattice`",
        )
    return _ratchet(ready, asked.session)


def pair_seeds(current: Ready, asked: SessionRequest, binding: bytes) -> dict[str, Secret]:
    """The seed of the mask shared with each other contributor."""
    return {
        peer: derive(current.chains[peer], Label.MASK, binding) for peer in asked.contributors if peer != current.name
    }


def end_upload(current: Ready, request: bytes, model_digest: bytes) -> Ready:
    """The state after the session: its chain keys are erased, the request is remembered."""
    after = _ratchet(current, current.next_session + 1)
    return replace(after, answered=digest(Label.ANSWERED, request, model_digest))


def _ratchet(state: Ready, session: int) -> Ready:
    """The state whose chain keys are those of `session`; earlier ones cannot be computed from it."""
    chains = dict(state.chains)
    for _ in range(session - state.next_session):
        chains = {peer: derive(key, Label.RATCHET) for peer, key in chains.items()}
    return replace(state, next_session=session, chains=MappingProxyType(chains))
