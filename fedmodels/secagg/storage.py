"""A contributor's state as bytes, for the hospital to persist. They are secret: they go to a file that only it reads.

A dump is a digest of 32 bytes, then a canonical MessagePack map. The digest finds damage, which would otherwise show
only as masks that do not cancel.
"""

from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg.messages import Key, Name, Names, SessionNumber, Shares, decode_secret, encode_secret
from fedmodels.secagg.primitives import KEY_BYTES, Label, Secret, digest
from fedmodels.secagg.states import Announced, PairsRevealed, Ready, Round, State, Unmasked, Uploaded
from fedmodels.secagg.terms import Mode, Terms, is_ascending


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="state"):
    """Base of what is stored."""


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run_id: bytes
    study_digest: Key
    roster: dict[Name, Key]
    min_contributors: int
    max_colluding: int
    on_dropout: Mode
    threshold: int | None

    def value(self) -> Terms:
        fields = {field: getattr(self, field) for field in self.__struct_fields__}
        return Terms(**fields)


class _Announced(_Stored, frozen=True, tag="announced/v2"):
    terms: _Terms
    name: Name
    secret: Secret
    message: bytes

    def value(self) -> Announced:
        return Announced(self.terms.value(), self.name, self.secret, self.message)


class _Ready(_Stored, frozen=True, tag="ready/v2"):
    terms: _Terms
    name: Name
    transcript: Key
    next_session: SessionNumber
    chains: dict[Name, Secret]
    answered: Annotated[bytes, Meta(max_length=KEY_BYTES)]

    def value(self) -> Ready:
        chains = MappingProxyType(self.chains)
        return Ready(self.terms.value(), self.name, self.transcript, self.next_session, chains, self.answered)


class _Round(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    session_digest: Key
    contributors: Names
    pair_seeds: dict[Name, Secret]
    share_keys: dict[Name, Secret]
    own_share: Secret

    def value(self) -> Round:
        seeds, keys = MappingProxyType(self.pair_seeds), MappingProxyType(self.share_keys)
        return Round(self.session_digest, self.contributors, seeds, keys, self.own_share)


class _Uploaded(_Stored, frozen=True, tag="uploaded/v1"):
    ready: _Ready
    round: _Round

    def value(self) -> Uploaded:
        return Uploaded(self.ready.value(), self.round.value())


class _PairsRevealed(_Stored, frozen=True, tag="pairs-revealed/v1"):
    ready: _Ready
    round: _Round
    dropped: Names

    def value(self) -> PairsRevealed:
        return PairsRevealed(self.ready.value(), self.round.value(), self.dropped)


class _Unmasked(_Stored, frozen=True, tag="unmasked/v1"):
    ready: _Ready
    answered: Key
    reply: Shares

    def value(self) -> Unmasked:
        return Unmasked(self.ready.value(), self.answered, self.reply)


_Any = _Announced | _Ready | _Uploaded | _PairsRevealed | _Unmasked
_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_secret)
_DECODER = msgspec.msgpack.Decoder(_Any, dec_hook=decode_secret)


def dump(state: State) -> bytes:
    """The state as bytes that `load` takes back."""
    body = _ENCODER.encode(_stored(state))
    return digest(Label.STATE, body) + body


def _stored(state: State) -> _Any:
    if isinstance(state, Announced):
        return _Announced(_stored_terms(state.terms), state.name, state.secret, state.message)
    if isinstance(state, Ready):
        return _stored_ready(state)
    ready = _stored_ready(state.ready)
    if isinstance(state, Unmasked):
        return _Unmasked(ready, state.answered, state.reply)
    kept = state.round
    round_ = _Round(
        kept.session_digest, kept.contributors, dict(kept.pair_seeds), dict(kept.share_keys), kept.own_share
    )
    if isinstance(state, Uploaded):
        return _Uploaded(ready, round_)
    return _PairsRevealed(ready, round_, state.dropped)


def _stored_ready(state: Ready) -> _Ready:
    terms, chains = _stored_terms(state.terms), dict(state.chains)
    return _Ready(terms, state.name, state.transcript, state.next_session, chains, state.answered)


def _stored_terms(terms: Terms) -> _Terms:
    return _Terms(
        terms.run_id, terms.study_digest, dict(terms.roster), terms.min_contributors, terms.max_colluding,
        terms.on_dropout, terms.threshold,
    )  # fmt: skip


def _is_consistent(stored: _Any) -> bool:
    """Whether the state belongs to a hospital of the roster and has a key for every peer that it needs one for."""
    if isinstance(stored, _Announced):
        return stored.name in stored.terms.roster
    if isinstance(stored, _Ready):
        keys = stored.chains.keys() == stored.terms.roster.keys() - {stored.name} and stored.name in stored.terms.roster
        return keys and len(stored.answered) in (0, KEY_BYTES)
    ready, recovers = stored.ready, stored.ready.terms.on_dropout == "recover"
    if isinstance(stored, _Unmasked):
        return recovers and _is_consistent(ready) and stored.reply.sender == ready.name
    contributors, peers = stored.round.contributors, set(stored.round.contributors) - {ready.name}
    dropped = stored.dropped if isinstance(stored, _PairsRevealed) else ()
    return (
        recovers
        and _is_consistent(ready)
        and is_ascending(contributors)
        and ready.name in contributors
        and stored.round.pair_seeds.keys() == stored.round.share_keys.keys() == peers <= ready.terms.roster.keys()
        and is_ascending(dropped)
        and set(dropped) <= peers
        and bool(dropped) == isinstance(stored, _PairsRevealed)
    )


def load(data: bytes) -> State:
    """The state that `dump` turned into `data`; anything else raises `LocalProtocolError`.

    Never load an older dump than the last one: it would mask a second vector with the same keys, or release the other
    kind of secret for a hospital.
    """
    state = _state_in(data)
    del data  # it holds keys, and a traceback may be shown with its local variables
    if state is None:
        raise LocalProtocolError(
            "the stored protocol state is damaged or of another release",
            where="stored protocol state",
            fix="begin a new run; a state is never repaired or restored from a backup",
        )
    return state


def _state_in(data: bytes) -> State | None:
    """The state, None where this is no dump of one. No error leaves this frame: it holds the bytes of keys."""
    check, body = data[:KEY_BYTES], data[KEY_BYTES:]
    if check != digest(Label.STATE, body):
        return None
    try:
        stored = _DECODER.decode(body)
        state: State | None = stored.value() if _is_consistent(stored) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LocalProtocolError):
        return None
    # Dumping again finds what a decoder lets pass: repeated fields, another order, integers longer than needed.
    return state if state is not None and dump(state) == data else None
