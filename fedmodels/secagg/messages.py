"""The four messages, as canonical MessagePack maps; decoding accepts exactly the bytes that encoding produces.

Vectors travel beside their `UploadHeader`, as little-endian uint32. No message holds a secret.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import CHECKSUM_BYTES, MAX_WORDS
from fedmodels.secagg.primitives import KEY_BYTES, SIGNATURE_BYTES

MAX_HOSPITALS = 1000
MAX_MESSAGE_BYTES = 1 << 18

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Checksum = Annotated[bytes, Meta(min_length=CHECKSUM_BYTES, max_length=CHECKSUM_BYTES)]
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


M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """The one encoding of a message."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, type_: type[M]) -> M:
    """The message in `data`; anything but the exact encoding of a `type_` raises `RemoteProtocolError`.

    The error quotes nothing of the data, since a peer chose it.
    """
    try:
        message = msgspec.msgpack.decode(data, type=type_) if len(data) <= MAX_MESSAGE_BYTES else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = None
    # Re-encoding finds what a decoder lets pass: repeated fields, another order, integers longer than needed.
    if message is None or encode(message) != data:
        raise RemoteProtocolError(
            f"{len(data)} bytes are not a well-formed {type_.__name__} message",
            where="secure aggregation",
            fix="check that all parties run the same release of fedmodels",
        )
    return message
