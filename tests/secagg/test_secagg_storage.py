"""What a hospital persists comes back unchanged, or not at all."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_parties import MODEL, announce, make_terms, names, recover_states, set_up
from secagg_tampering import is_accepted, tampered, tampered_bytes

from fedmodels import secagg
from fedmodels.errors import LocalProtocolError
from fedmodels.secagg.primitives import Label, digest

TERMS = make_terms(4, 3, 1)
ANNOUNCED, _ = announce(TERMS)
READY, AGGREGATOR = set_up(TERMS)
RECOVER = recover_states()[0]


def test_a_dump_loads_as_the_same_state():
    _, session = secagg.open_session(AGGREGATOR, 1, names(4), MODEL, 1)
    used, _ = secagg.upload(READY["hospital-0"], session.request, MODEL, np.zeros(1, np.uint32))
    for state in (*ANNOUNCED.values(), *READY.values(), used, *RECOVER):
        assert secagg.load(secagg.dump(state)) == state


@given(tampered_bytes(secagg.dump(READY["hospital-0"])) | st.binary(max_size=200))
def test_a_damaged_dump_is_refused(changed):
    with pytest.raises(LocalProtocolError, match="stored protocol state"):
        secagg.load(changed)


def test_a_dump_without_the_chain_key_of_a_peer_is_refused():
    fields = msgspec.msgpack.decode(secagg.dump(READY["hospital-0"])[32:])
    del fields["chains"]["hospital-2"]
    body = msgspec.msgpack.encode(fields)
    with pytest.raises(LocalProtocolError, match="stored protocol state"):
        secagg.load(digest(Label.STATE, body) + body)


@pytest.mark.parametrize(
    "state", [READY["hospital-0"], ANNOUNCED["hospital-0"], *RECOVER], ids=lambda state: type(state).__name__
)
@given(data=st.data())
def test_a_forged_dump_is_refused_or_is_the_state_that_it_says(state, data):
    """Its digest is right, as it is not secret: then the form decides."""
    body = data.draw(tampered(secagg.dump(state)[32:]) | st.binary(max_size=200))
    forged = digest(Label.STATE, body) + body
    if is_accepted(secagg.load, forged):
        loaded = secagg.load(forged)
        assert secagg.dump(loaded) == forged
        assert loaded.name in loaded.terms.roster
        assert loaded.terms.on_dropout == "recover" or isinstance(loaded, secagg.Announced | secagg.Ready)
        if isinstance(loaded, secagg.Uploaded | secagg.PairsRevealed):
            peers = set(loaded.round.contributors) - {loaded.name}
            assert loaded.round.pair_seeds.keys() == loaded.round.share_keys.keys() == peers
            assert set(getattr(loaded, "dropped", ())) <= peers
        if isinstance(loaded, secagg.Ready):
            assert {*loaded.chains, loaded.name} == set(loaded.terms.roster)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (2, {"contributors": ["hospital-1", "hospital-2"]}),
        (2, {"contributors": [f"hospital-{i}" for i in (1, 2, 3, 4)]}),
        (4, {"on_dropout": "retry", "threshold": None}),
        (2, {"pair_seeds": {}}),
        (2, {"share_keys": {}}),
        (3, {"dropped": []}),
        (3, {"dropped": ["hospital-0"]}),
        (3, {"dropped": ["hospital-2", "hospital-1"]}),
        (3, {"dropped": ["stranger"]}),
        (4, {"sender": "hospital-1"}),
        (2, {"on_dropout": "retry", "threshold": None}),
    ],
)
def test_a_dump_whose_parts_do_not_belong_together_is_refused(place, change):
    fields = msgspec.msgpack.decode(secagg.dump(RECOVER[place])[32:])
    for part in (fields, fields.get("round", {}), fields.get("reply", {}), fields["ready"]["terms"]):
        part.update({key: value for key, value in change.items() if key in part})
    body = msgspec.msgpack.encode(fields)
    with pytest.raises(LocalProtocolError, match="stored protocol state"):
        secagg.load(digest(Label.STATE, body) + body)
