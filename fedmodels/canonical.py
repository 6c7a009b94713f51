"""The strict decoding of every MessagePack message that a peer sent: exactly the bytes that encoding produces."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from fedmodels.errors import RemoteProtocolError

T = TypeVar("T")


def decode(
    data: bytes,
    type_: type[T],
    *,
    limit: int,
    encode: Callable[[T], bytes],
    name: str,
    hook: Callable[[type, Any], Any] | None = None,
) -> T:
    """The message in `data`; anything but the exact encoding of a `type_` raises `RemoteProtocolError`.

    limit: largest size in bytes that is looked at; encode: the one encoding of a message; name: the kind of message, in
    the error; hook: msgspec's `dec_hook`. The error quotes nothing of the data, since a peer chose it.
    """
    try:
        message = msgspec.msgpack.decode(data, type=type_, dec_hook=hook) if len(data) <= limit else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = None
    # Re-encoding finds what a decoder lets pass: repeated or missing fields, another order, longer integers.
    if message is None or encode(message) != data:
        raise RemoteProtocolError(
            f"{len(data)} bytes are not a well-formed {name}",
            fix="check that all parties run the same release of fedmodels",
        )
    return message
