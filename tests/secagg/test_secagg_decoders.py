"""Decoders raise the one named error for whatever they cannot read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_tampering import VALUES

from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg import messages
from fedmodels.secagg.messages import MAX_MESSAGE_BYTES, Message, SetupKeys, decode

TYPES = [type_ for type_ in vars(messages).values() if isinstance(type_, type) and issubclass(type_, Message)]
TYPES.remove(Message)
FIELDS = sorted({field for type_ in TYPES for field in type_.__struct_fields__})


def test_all_message_types_are_here():
    assert [type_.__struct_config__.tag for type_ in TYPES] == [
        "setup-key/v1", "setup-keys/v1", "session/v1", "upload/v1", "session-recover/v1", "upload-recover/v1",
        "reveal-pairs/v1", "pairs/v1", "reveal-shares/v1", "shares/v1",
    ]  # fmt: skip


@pytest.mark.parametrize("type_", TYPES)
@given(data=st.binary(max_size=300))
def test_decoders_survive_random_bytes(type_, data):
    with pytest.raises(RemoteProtocolError):
        decode(data, type_)


NESTED = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["type", *FIELDS]), inner),
    max_leaves=12,
)


@given(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS), NESTED))
def test_decoders_survive_random_structures_of_the_right_type(type_, fields):
    tag = msgspec.inspect.type_info(type_).tag
    with pytest.raises(RemoteProtocolError):
        decode(msgspec.msgpack.encode({"type": tag} | fields), type_)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1a", b"\x81\xa4keys\x91", b"\x81\xa4type"])
def test_decoders_survive_deep_nesting(type_, level):
    with pytest.raises(RemoteProtocolError):
        decode(level * 20_000, type_)


def test_oversized_messages_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.delattr(msgspec.msgpack, "decode")
    with pytest.raises(RemoteProtocolError, match=f"{MAX_MESSAGE_BYTES + 1} bytes"):
        decode(bytes(MAX_MESSAGE_BYTES + 1), SetupKeys)
