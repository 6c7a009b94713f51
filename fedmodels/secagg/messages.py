"""The messages, as canonical MessagePack maps; decoding accepts exactly the bytes that encoding produces.

Vectors travel beside their `UploadHeader` or `RecoverHeader`, as little-endian uint32. The replies `Pairs` and `Shares`
hold the secrets that a contributor decided to hand to the aggregator; no other message holds any.
"""

from contextlib import suppress
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fedmodels import canonical
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import CHECKSUM_BYTES, MAX_WORDS
from fedmodels.secagg.primitives import KEY_BYTES, SEALED_BYTES, SIGNATURE_BYTES, Secret

MAX_HOSPITALS = 1000
MAX_MESSAGE_BYTES = 1 << 18

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Checksum = Annotated[bytes, Meta(min_length=CHECKSUM_BYTES, max_length=CHECKSUM_BYTES)]
Sealed = Annotated[bytes, Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_HOSPITALS)]
Secrets = Annotated[tuple[Secret, ...], Meta(min_length=1, max_length=MAX_HOSPITALS)]
SessionNumber = Annotated[int, Meta(ge=1, lt=1 << 53)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of the messages: immutable, unknown fields refused, the type and its version in the field `type`."""


class SetupKey(Message, frozen=True, tag="setup-key/v1"):
    """Contributor to aggregator, once per run: an ephemeral X25519 public key, signed by the sender's identity key."""

    sender: Name
    key: Key
    signature: Signature


class SetupKeys(Message, frozen=True, tag="setup-keys/v1"):
    """Aggregator to contributors: the keys of the whole roster, in ascending order of sender."""

    keys: Annotated[tuple[SetupKey, ...], Meta(min_length=1, max_length=MAX_HOSPITALS)]


class SessionRequest(Message, frozen=True, tag="session/v1"):
    """Aggregator to contributors: asks `contributors` (U, in ascending order) for one upload each."""

    session: SessionNumber
    contributors: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_HOSPITALS)]


class UploadHeader(Message, frozen=True, tag="upload/v1"):
    """Contributor to aggregator, beside the masked vector: which session digest h it belongs to and what it holds."""

    sender: Name
    session: SessionNumber
    session_digest: Key
    words: Annotated[int, Meta(ge=1, le=MAX_WORDS)]
    checksum: Checksum


class RecoverRequest(SessionRequest, frozen=True, tag="session-recover/v1"):
    """The same for a `recover` round."""


class RecoverHeader(UploadHeader, frozen=True, tag="upload-recover/v1"):
    """The same for a `recover` round, with the sender's self mask shared: one sealed share for each other member of U,
    in ascending order of its name. The aggregator relays them and can open none."""

    shares: Annotated[tuple[Sealed, ...], Meta(max_length=MAX_HOSPITALS)]


class RevealPairs(Message, frozen=True, tag="reveal-pairs/v1"):
    """Step A, aggregator to survivors: asks for the pair seeds shared with each of `dropped` (D, ascending)."""

    session_digest: Key
    dropped: Names


class Pairs(Message, frozen=True, tag="pairs/v1"):
    """Answer to step A: the seeds, in the order of `dropped`."""

    sender: Name
    session_digest: Key
    dropped: Names
    seeds: Secrets


class RevealShares(Message, frozen=True, tag="reveal-shares/v1"):
    """Step B, aggregator to one survivor: the shares sealed for it by the other survivors, in ascending order of name.
    Asks for them opened, and for the survivor's own."""

    session_digest: Key
    dropped: Names
    shares: Annotated[tuple[Sealed, ...], Meta(max_length=MAX_HOSPITALS)]


class Shares(Message, frozen=True, tag="shares/v1"):
    """Answer to step B: one share of the self mask of every survivor, in ascending order of its name; None for one that
    does not open."""

    sender: Name
    session_digest: Key
    dropped: Names
    shares: Annotated[tuple[Secret | None, ...], Meta(min_length=1, max_length=MAX_HOSPITALS)]


M = TypeVar("M", bound=Message)


def encode_secret(value: object) -> bytes:
    """How msgspec writes a `Secret`."""
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def decode_secret(_: type, value: Any) -> Secret:  # noqa: ANN401 - the signature is that of msgspec
    """How msgspec reads a `Secret`."""
    if not isinstance(value, bytes) or len(value) != KEY_BYTES:
        raise ValueError("not a key")
    return Secret(value)


def encode(message: Message) -> bytes:
    """The one encoding of a message."""
    return msgspec.msgpack.encode(message, enc_hook=encode_secret)


def check_sender(data: bytes, sender: str) -> None:
    """Raise `RemoteProtocolError` unless `sender` is who this upload header or answer says that it is from.

    Headers and answers are not signed: whoever carries them knows from whom they came, and asks this before a session
    takes them. Without it one hospital could answer in another's name, whose own answer would then be refused.
    """
    types: tuple[type[UploadHeader | Pairs | Shares], ...] = (RecoverHeader, UploadHeader, Pairs, Shares)
    for type_ in types:
        with suppress(RemoteProtocolError):
            if decode(data, type_).sender == sender:
                return
    raise RemoteProtocolError(
        "it sent another hospital's contribution or answer, or none that can be read",
        where=f"hospital {sender}",
        fix="leave this hospital out and open a new session",
    )


def decode_request(data: bytes) -> SessionRequest:
    """The request of either kind of round: a `RecoverRequest`, or a plain `SessionRequest`."""
    try:
        return decode(data, RecoverRequest)
    except RemoteProtocolError:
        return decode(data, SessionRequest)


def decode(data: bytes, type_: type[M]) -> M:
    """The message in `data`; anything but the exact encoding of a `type_` raises `RemoteProtocolError`.

    The error quotes nothing of the data, since a peer chose it.
    """
    name = f"{type_.__name__} message of secure aggregation"
    return canonical.decode(data, type_, limit=MAX_MESSAGE_BYTES, encode=encode, name=name, hook=decode_secret)
