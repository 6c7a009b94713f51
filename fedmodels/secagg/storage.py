"""A contributor's state as bytes, for the hospital to persist. They are secret: they go to a file that only it reads.

A dump is a digest of 32 bytes, then a canonical MessagePack map. The digest finds damage, which would otherwise show
only as masks that do not cancel.
"""

from types import MappingProxyType
from typing import Any

import msgspec

from fedmodels.errors import LocalProtocolError
from fedmodels.secagg.contributor import Announced, Ready, State
from fedmodels.secagg.messages import Key, Name, SessionNumber
from fedmodels.secagg.primitives import KEY_BYTES, Label, Secret, digest
from fedmodels.secagg.terms import Terms


class _Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run_id: bytes
    study_digest: Key
    roster: dict[Name, Key]
    min_contributors: int
    max_colluding: int

    def value(self) -> Terms:
        return Terms(self.run_id, self.study_digest, self.roster, self.min_contributors, self.max_colluding)


class _Announced(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="state", tag="announced/v1"):
    terms: _Terms
    name: Name
    secret: Secret
    message: bytes


class _Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="state", tag="ready/v1"):
    terms: _Terms
    name: Name
    transcript: Key
    next_session: SessionNumber
    chains: dict[Name, Secret]


def _encode_secret(value: object) -> bytes:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def _decode_secret(_: type, value: Any) -> Secret:  # noqa: ANN401 - the signature is that of msgspec
    if not isinstance(value, bytes) or len(value) != KEY_BYTES:
        raise ValueError("not a key")
    return Secret(value)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_secret)
_DECODER = msgspec.msgpack.Decoder(_Announced | _Ready, dec_hook=_decode_secret)


def dump(state: State) -> bytes:
    """The state as bytes that `load` takes back."""
    pinned = state.terms
    terms = _Terms(
        pinned.run_id, pinned.study_digest, dict(pinned.roster), pinned.min_contributors, pinned.max_colluding
    )
    stored: _Announced | _Ready
    if isinstance(state, Announced):
        stored = _Announced(terms, state.name, state.secret, state.message)
    else:
        stored = _Ready(terms, state.name, state.transcript, state.next_session, dict(state.chains))
    body = _ENCODER.encode(stored)
    return digest(Label.STATE, body) + body


def _is_consistent(stored: _Announced | _Ready) -> bool:
    """Whether the state belongs to a hospital of the roster and, once ready, has a chain key for every peer."""
    if isinstance(stored, _Announced):
        return stored.name in stored.terms.roster
    return stored.chains.keys() == stored.terms.roster.keys() - {stored.name} and stored.name in stored.terms.roster


def load(data: bytes) -> State:
    """The state that `dump` turned into `data`; anything else raises `LocalProtocolError`.

    Never load an older dump than the last one: it would mask a second vector with the same keys.
    """
    check, body = data[:KEY_BYTES], data[KEY_BYTES:]
    try:
        stored = _DECODER.decode(body) if check == digest(Label.STATE, body) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        stored = None
    if stored is None or _ENCODER.encode(stored) != body or not _is_consistent(stored):
        raise LocalProtocolError(
            "the stored protocol state is damaged or of another release",
            where="stored protocol state",
            fix="begin a new run; a state is never repaired or restored from a backup",
        )
    terms = stored.terms.value()
    if isinstance(stored, _Announced):
        return Announced(terms, stored.name, stored.secret, stored.message)
    return Ready(terms, stored.name, stored.transcript, stored.next_session, MappingProxyType(stored.chains))
