"""Hypothesis strategies that change a message in every way a bad network or peer can."""

import msgspec
from hypothesis import assume
from hypothesis import strategies as st

from fedmodels.errors import ProtocolError

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=70),
    st.binary(max_size=70),
)
"""Any scalar that MessagePack carries."""


def is_accepted(check, *arguments):
    try:
        check(*arguments)
    except ProtocolError:
        return False
    return True


def tampered_bytes(data):
    """Strategy: the data with bytes changed, cut, inserted, repeated or appended."""
    index, byte = st.integers(0, len(data) - 1), st.integers(1, 255)
    return st.one_of(
        st.builds(lambda i, b: data[:i] + bytes([data[i] ^ b]) + data[i + 1 :], index, byte),
        st.builds(lambda i: data[:i], index),
        st.builds(lambda i: data[i + 1 :], index),
        st.builds(lambda i, extra: data[:i] + extra + data[i:], index, st.binary(min_size=1, max_size=9)),
        st.builds(lambda extra: data + extra, st.binary(min_size=1, max_size=9)),
        st.builds(lambda i, j: data[: max(i, j)] + data[min(i, j) :], index, index),
    ).filter(lambda changed: changed != data)


@st.composite
def tampered_fields(draw, data):
    """The message with one field replaced, removed or added, or its fields in another order."""
    fields = msgspec.msgpack.decode(data)
    key = draw(st.sampled_from(sorted(fields)))
    action = draw(st.sampled_from(["replace", "remove", "add", "reorder", "repeat"]))
    if action == "replace":
        fields[key] = draw(st.one_of(VALUES, st.lists(VALUES, max_size=5)))
    elif action == "remove":
        del fields[key]
    elif action == "add":
        fields[draw(st.text(max_size=9).filter(lambda name: name not in fields))] = draw(VALUES)
    elif action == "reorder":
        fields = dict(draw(st.permutations(list(fields.items()))))
    changed = msgspec.msgpack.encode(fields)
    if action == "repeat":
        field = msgspec.msgpack.encode(key) + msgspec.msgpack.encode(fields[key])
        changed = bytes([data[0] + 1]) + data[1:] + field
    assume(changed != data)
    return changed


def tampered(data):
    return st.one_of(tampered_bytes(data), tampered_fields(data))
