"""The outer messages, as each side reads the other's: exactly what encoding produces, or the one named error."""

import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmodels import wire
from fedmodels.errors import RemoteProtocolError

HEADS = {"a": b"h" * 96, "b": b""}
REQUESTS = [
    wire.SetupRequest(bytes(16), bytes(32), bytes(32), HEADS),
    wire.ContributeRequest(bytes(16), "train", 3, b"session", b"relay", HEADS),
    wire.UnmaskRequest(bytes(16), b"message"),
    wire.PresenceRequest(bytes(16), bytes(16)),
]
REPLIES = [
    wire.SetupReply("a", b"key", b"head"),
    wire.ContributeReply(b"header", b"head"),
    wire.UnmaskReply(b"message"),
    wire.PresenceReply("a", bytes(64)),
    wire.Refusal("busy"),
]
DECODERS = [wire.decode_request, wire.decode_reply, lambda data: wire.split_reply(data)[0]]


@pytest.mark.parametrize("message", REQUESTS)
def test_every_request_comes_back(message):
    assert wire.decode_request(wire.encode(message)) == message


@pytest.mark.parametrize("message", REPLIES)
def test_every_reply_comes_back(message):
    assert wire.decode_reply(wire.encode(message)) == message
    assert wire.split_reply(wire.encode(message) + b"behind")[0] == message


def refused(data, decoders=DECODERS):
    for decode in decoders:
        with pytest.raises(RemoteProtocolError, match=f"{len(data)} bytes are not a well-formed re"):
            decode(data)


def raw(*pairs):
    """A map with these keys and values in this order, repeated keys and all."""
    return bytes([0x80 | len(pairs)]) + b"".join(msgspec.msgpack.encode(part) for pair in pairs for part in pair)


PRESENCE = ("type", "presence"), ("run_id", bytes(16)), ("nonce", bytes(16))
REFUSAL = ("type", "refusal"), ("rule", "busy")
SETUP_REPLY = ("type", "setup-reply"), ("hospital", "a"), ("key_message", b"k"), ("head", b"")


def test_the_raw_maps_of_these_tests_are_messages_before_they_are_spoilt():
    assert wire.decode_request(raw(*PRESENCE)) == wire.PresenceRequest(bytes(16), bytes(16))
    assert wire.decode_reply(raw(*REFUSAL)) == wire.Refusal("busy")
    assert wire.decode_reply(raw(*SETUP_REPLY)) == wire.SetupReply("a", b"k")


@pytest.mark.parametrize(
    "data",
    [
        raw(*PRESENCE, ("run_id", bytes([1]) * 16)),  # a second value: two readers could see different ones
        raw(*PRESENCE[::-1]),
        raw(*REFUSAL, ("rule", "policy")),
        raw(*REFUSAL[::-1]),
        raw(*SETUP_REPLY, ("head", b"h")),
        raw(*SETUP_REPLY[:-1]),  # a field with a default is written all the same
        raw(*REFUSAL, ("more", "x")),
        raw(*REFUSAL) + b"\x00",
        raw(*REFUSAL)[:-1],
        b"\xde\x00\x02" + raw(*REFUSAL)[1:],  # the map's size in more bytes than it needs
        b"\x82\xa4type\xa7refusal\xa4rule\xd9\x04busy",  # a string's, too
        b"\x82\xa4type\xa7refusal\xa4rule\xa4\xff\xfe\xfd\xfc",  # not UTF-8
        b"\x82\xa4type\xa4\xff\xfe\xfd\xfc\xa4rule\xa4busy",
        b"\x81\xa4\xff\xfe\xfd\xfc\xa4busy",
        b"",
        b"\xc1",
    ],
)
def test_bytes_that_are_no_canonical_message_are_refused(data):
    if data == raw(*REFUSAL) + b"\x00":
        refused(data, DECODERS[:2])  # `split_reply` takes what follows for a vector
        return
    for decode in DECODERS:
        with pytest.raises(RemoteProtocolError, match="not a well-formed"):
            decode(data)


def test_control_a_plain_decoder_takes_a_repeated_field_and_fails_on_text_that_is_not_utf_8():
    repeated = raw(*REFUSAL, ("rule", "policy"))
    assert msgspec.msgpack.decode(repeated, type=wire.Reply) == wire.Refusal("policy")
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.decode(b"\x82\xa4type\xa7refusal\xa4rule\xa4\xff\xfe\xfd\xfc", type=wire.Reply)


def test_a_number_that_is_longer_than_needed_is_refused():
    good = wire.encode(REQUESTS[1])
    assert wire.decode_request(good) == REQUESTS[1]
    assert b"\xa5round\x03" in good
    refused(good.replace(b"\xa5round\x03", b"\xa5round\xcd\x00\x03"), DECODERS[:1])


@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1a", b"\x81\xa4type", b"\x82\xa4type\xa5setup\xa5heads"])
def test_deep_nesting_is_refused(level):
    for decode in DECODERS:
        with pytest.raises(RemoteProtocolError):
            decode(level * 100_000)


def test_oversized_messages_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.delattr(msgspec.msgpack, "decode")
    refused(bytes(wire.MAX_BYTES + 1), DECODERS[:2])


def test_the_largest_roster_fits():
    heads = {f"h{i:063}": bytes(96) for i in range(1000)}
    request = wire.ContributeRequest(bytes(16), "train", 1, bytes(1 << 20), bytes(1 << 20), heads)
    assert wire.decode_request(wire.encode(request)) == request


def test_an_error_quotes_nothing_that_the_peer_chose():
    for decode in DECODERS:
        with pytest.raises(RemoteProtocolError) as caught:
            decode(raw(*REFUSAL, ("John Doe", "ill")))
        assert "John" not in str(caught.value)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    for decode in DECODERS:
        with pytest.raises(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize("parameters", [0, 1, 7, (1 << 18) - 1, 1 << 18, (1 << 18) + 3])
def test_the_digest_of_a_model_is_that_of_its_halves_on_one_core_and_on_two(parameters: int) -> None:
    model = np.arange(parameters, dtype=np.float32)
    halves = (model[: parameters // 2], model[parameters // 2 :])
    assert wire.weights_digest(model) == b"".join(hashlib.sha256(half.tobytes()).digest() for half in halves)
