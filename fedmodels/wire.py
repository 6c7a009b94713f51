"""The messages between coordinator and hospital, as typed values and as MessagePack bytes.

Decoding is strict on both sides: whatever is not exactly the encoding of a message raises `RemoteProtocolError`. The
model and the masked vector travel beside these small messages as one array each.
"""

import hashlib
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmodels import canonical
from fedmodels.cores import at_once
from fedmodels.joining import HEAD_BYTES
from fedmodels.secagg import Terms
from fedmodels.study import Roster, Study
from fedmodels.typed import Name, Strict

_WORTH_TWO_CORES = 1 << 20  # bytes; to wake another core takes as long as hashing a quarter of that
MAX_BYTES = 1 << 22  # two opaque fields, and a ledger head of every hospital
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
RunId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Opaque = Annotated[bytes, Meta(max_length=1 << 20)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Head = Annotated[bytes, Meta(max_length=HEAD_BYTES)]
Kind = Literal["train", "evaluate"]
T = TypeVar("T")


class SetupRequest(Strict, frozen=True, tag="setup"):
    """Asks a hospital to take part in a run of a study that it has approved.

    heads: the last signed ledger head (`fedmodels.joining.sign_head`) that the coordinator holds of each hospital.
    """

    run_id: RunId
    study_digest: Digest
    roster_digest: Digest
    heads: dict[Name, Head] = msgspec.field(default_factory=dict)


class SetupReply(Strict, frozen=True, tag="setup-reply"):
    """The hospital's name, its signed ephemeral key and the signed head of its ledger; empty before the first row."""

    hospital: Name
    key_message: Opaque
    head: Head = b""


class ContributeRequest(Strict, frozen=True, tag="contribute"):
    """Asks for one masked contribution to a session of secure aggregation; the global model rides beside it.

    round counts training rounds from 1; session is the encoded request of `fedmodels.secagg`; relay: the signed keys
    of all hospitals, empty once every hospital has them; heads: as in `SetupRequest`.
    """

    run_id: RunId
    kind: Kind
    round: Annotated[int, Meta(ge=0)]
    session: Opaque
    relay: Opaque = b""
    heads: dict[Name, Head] = msgspec.field(default_factory=dict)


class UnmaskRequest(Strict, frozen=True, tag="unmask"):
    """A step of unmasking after a `recover` upload; message is a request of `fedmodels.secagg`."""

    run_id: RunId
    message: Opaque


class UnmaskReply(Strict, frozen=True, tag="unmask-reply"):
    """What the hospital reveals in that step: mask secrets, never anything about data."""

    message: Opaque


class PresenceRequest(Strict, frozen=True, tag="presence"):
    """Asks a hospital that failed to contribute whether it is back. nonce: fresh, for its signed reply."""

    run_id: RunId
    nonce: Nonce


class PresenceReply(Strict, frozen=True, tag="presence-reply"):
    """It is, and still has its protocol state of this run; signed, because a node may be any hospital's.

    See `fedmodels.joining.sign_presence`.
    """

    hospital: Name
    signature: Signature


class ContributeReply(Strict, frozen=True, tag="contribute-reply"):
    """The header of a masked vector that travels beside it, and the head of the ledger that it was charged to."""

    header: Opaque
    head: Head = b""


class Refusal(Strict, frozen=True, tag="refusal"):
    """A hospital declines. rule: what decided, in one word; it never says anything about data."""

    rule: Annotated[str, Meta(max_length=64)]


Request = SetupRequest | ContributeRequest | UnmaskRequest | PresenceRequest
Reply = SetupReply | ContributeReply | UnmaskReply | PresenceReply | Refusal


def encode(message: Request | Reply) -> bytes:
    return msgspec.msgpack.encode(message)


def decode_request(data: bytes) -> Request:
    return _decode(data, Request, "request")  # type: ignore[arg-type]  # a union is not a type to mypy


def decode_reply(data: bytes) -> Reply:
    return _decode(data, Reply, "reply")  # type: ignore[arg-type]


def _decode(data: bytes, kind: type[T], name: str) -> T:
    return canonical.decode(data, kind, limit=MAX_BYTES, encode=msgspec.msgpack.encode, name=name)


def split_reply(data: bytes) -> tuple[Reply, memoryview]:
    """A reply and the bytes behind it, such as those of a masked vector. Strict as `decode_reply`."""
    end = _end_of_map(data)
    return decode_reply(data[:end]), memoryview(data)[end:]


def _end_of_map(data: bytes) -> int:
    """Where the map of strings and byte strings ends that every reply is encoded as; MessagePack, section "formats"."""
    end, items = 1, 2 * (data[0] & 0x0F) if data and data[0] >> 4 == 0x8 else 0
    for _ in range(items):
        tag = data[end] if end < len(data) else 0
        wide = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2}.get(tag, 0)
        length = int.from_bytes(data[end + 1 : end + 1 + wide], "big") if wide else tag & 0x1F
        if not wide and tag >> 5 != 0b101:
            break  # what is not such a map is refused when it is decoded
        end += 1 + wide + length
    return end


def terms(study: Study, roster: Roster, run_id: bytes) -> Terms:
    """The terms of secure aggregation that follow from a study and a roster; they bind every value of both."""
    federation = study.federation
    agreement = hashlib.sha256(b"fedmodels/agreement/v1" + study.digest + roster.digest).digest()
    return Terms(
        run_id,
        agreement,
        roster.keys,
        federation.min_contributors,
        study.privacy.max_colluding,
        federation.on_dropout,
        study.threshold if federation.on_dropout == "recover" else None,
    )


def weights_digest(model: npt.NDArray[np.float32]) -> bytes:
    """SHA-256 of each half of a model, joined: of a large one, two cores compute one each."""
    body, middle = np.ascontiguousarray(model, "<f4"), model.size // 2
    first, second = hashlib.sha256(), hashlib.sha256()
    if body.nbytes < _WORTH_TWO_CORES:
        first.update(body[:middle].data)
        second.update(body[middle:].data)
    else:
        at_once(lambda: first.update(body[:middle].data), lambda: second.update(body[middle:].data))
    return first.digest() + second.digest()


def model_digest(kind: Kind, round_: int, parameters: int, weights: bytes) -> bytes:
    """What a session is about: the kind, the round and the global model. Hospitals shown different ones never agree.

    parameters: how many the model has; weights: its `weights_digest`.
    """
    about = msgspec.msgpack.encode((kind, round_, parameters))
    return hashlib.sha256(b"fedmodels/model/v2" + about + weights).digest()
