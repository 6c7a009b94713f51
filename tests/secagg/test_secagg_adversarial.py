"""A hostile coordinator, hostile hospitals and a bad network: always a refusal, never a release, never a change."""

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from secagg_parties import (
    MODEL,
    OTHER_MODEL,
    announce,
    identity,
    make_terms,
    names,
    plain_sum,
    randomness,
    set_up,
    vectors,
)
from secagg_tampering import is_accepted, tampered

from fedmodels import secagg
from fedmodels.errors import LocalProtocolError, RemoteProtocolError
from fedmodels.secagg.messages import SessionRequest, SetupKey, SetupKeys, UploadHeader, decode, encode

TERMS = make_terms(4, 3, 1)
ANNOUNCED, AGGREGATOR = announce(TERMS)
RELAYED = secagg.relay(AGGREGATOR)
READY, _ = set_up(TERMS)
OTHER_RUN = secagg.relay(announce(make_terms(4, 3, 1, run=b"o" * 16))[1])
OTHER_KEYS = secagg.relay(announce(TERMS, seed="others")[1])
INPUTS = vectors(names(4), 6)
REQUEST = secagg.open_session(AGGREGATOR, 1, names(4), MODEL, 6)[1].request
UPLOADS = {name: secagg.upload(READY[name], REQUEST, MODEL, INPUTS[name])[1] for name in names(4)}


def open_session():
    return secagg.open_session(AGGREGATOR, 1, names(4), MODEL, 6)[1]


@given(tampered(RELAYED), st.sampled_from(names(4)))
def test_any_change_to_the_relayed_keys_is_refused_and_changes_nothing(changed, name):
    state = ANNOUNCED[name]
    before = secagg.dump(state)
    with pytest.raises(RemoteProtocolError):
        secagg.finish_setup(state, changed)
    assert secagg.dump(state) == before
    assert secagg.finish_setup(state, RELAYED) == READY[name]


@pytest.mark.parametrize("replayed", [OTHER_RUN, OTHER_KEYS], ids=["another run", "own key of another set-up"])
def test_replayed_keys_are_refused(replayed):
    with pytest.raises(RemoteProtocolError):
        secagg.finish_setup(ANNOUNCED["hospital-0"], replayed)


@given(st.permutations(range(4)), st.sampled_from(["sender", "key", "signature"]))
def test_fields_swapped_between_hospitals_are_refused(order, field):
    assume(order != [0, 1, 2, 3])
    keys = decode(RELAYED, SetupKeys).keys
    swapped = [
        msgspec.structs.replace(key, **{field: getattr(keys[i], field)}) for key, i in zip(keys, order, strict=True)
    ]
    with pytest.raises(RemoteProtocolError):
        secagg.finish_setup(ANNOUNCED["hospital-0"], encode(SetupKeys(tuple(swapped))))


@pytest.mark.parametrize("signer", ["stranger", "hospital-1"])
def test_sybil_keys_are_refused_by_hospitals_and_coordinator(signer):
    """A stranger joins under a name of its own, or takes a hospital's name without its identity key."""
    name = "stranger" if signer == "stranger" else "hospital-3"
    pinned = {**TERMS.roster, name: identity(signer).public_key().public_bytes_raw()}
    if signer == "hospital-1":
        del pinned["hospital-1"]
    own_terms = secagg.Terms(TERMS.run_id, TERMS.study_digest, pinned, 3, 1)
    _, message = secagg.begin_setup(own_terms, name, identity(signer), randomness("sybil"))
    with pytest.raises(RemoteProtocolError):
        secagg.collect(secagg.Aggregator(TERMS), message)
    keys = decode(RELAYED, SetupKeys).keys
    for relayed in ((*keys[:3], decode(message, SetupKey)), (*keys, decode(message, SetupKey))):
        with pytest.raises(RemoteProtocolError):
            secagg.finish_setup(ANNOUNCED["hospital-0"], encode(SetupKeys(relayed)))


@given(tampered(ANNOUNCED["hospital-2"].message))
def test_any_change_to_a_set_up_key_is_refused_by_the_coordinator(changed):
    aggregator = secagg.Aggregator(TERMS)
    with pytest.raises(RemoteProtocolError):
        secagg.collect(aggregator, changed)
    assert aggregator.missing == names(4)


def test_wrong_signatures_are_reported_with_the_name_of_the_hospital():
    message = msgspec.structs.replace(decode(ANNOUNCED["hospital-2"].message, SetupKey), signature=bytes(64))
    with pytest.raises(RemoteProtocolError, match="hospital-2"):
        secagg.collect(secagg.Aggregator(TERMS), encode(message))
    keys = decode(RELAYED, SetupKeys).keys
    with pytest.raises(RemoteProtocolError, match="hospital-2"):
        secagg.finish_setup(ANNOUNCED["hospital-0"], encode(SetupKeys((*keys[:2], message, keys[3]))))


def test_a_second_set_up_key_from_one_hospital_is_refused():
    _, second = secagg.begin_setup(TERMS, "hospital-1", identity("hospital-1"), randomness("again"))
    with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*second, different"):
        secagg.collect(AGGREGATOR, second)


@given(tampered(REQUEST), st.sampled_from(names(4)))
def test_a_changed_request_is_refused_or_opens_nothing(changed, name):
    """Requests are not signed: a valid but different one yields an upload that fits no other hospital's."""
    state = READY[name]
    before = secagg.dump(state)
    if not is_accepted(secagg.check_request, state, changed):
        with pytest.raises(RemoteProtocolError):
            secagg.upload(state, changed, MODEL, INPUTS[name])
        assert secagg.dump(state) == before
        return
    _, sent = secagg.upload(state, changed, MODEL, INPUTS[name])
    assert secagg.dump(state) == before
    session = open_session()
    with pytest.raises(RemoteProtocolError):
        session.add(sent.header, sent.vector)
    assert session.missing == names(4)
    others = [UPLOADS[other].vector for other in names(4) if other != name]
    assert plain_sum([sent.vector, *others]) != plain_sum(INPUTS.values())


@pytest.mark.parametrize(
    ("number", "contributors"),
    [
        (1, ("hospital-1", "hospital-2", "hospital-3")),
        (1, ("hospital-0", "hospital-1")),
        (1, ("hospital-0", "hospital-0", "hospital-1")),
        (1, ("hospital-1", "hospital-0", "hospital-2")),
        (1, ("hospital-0", "hospital-1", "stranger")),
        (1002, names(4)),
    ],
    ids=["without me", "too few", "one twice", "out of order", "a stranger", "too far ahead"],
)
def test_requests_that_the_protocol_does_not_allow_are_refused(number, contributors):
    request = encode(SessionRequest(number, contributors))
    with pytest.raises(RemoteProtocolError):
        secagg.check_request(READY["hospital-0"], request)
    with pytest.raises(RemoteProtocolError):
        secagg.upload(READY["hospital-0"], request, MODEL, INPUTS["hospital-0"])


def test_a_request_says_before_training_what_it_asks_for():
    assert secagg.check_request(READY["hospital-0"], REQUEST) == SessionRequest(1, names(4))


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(6),
        np.zeros(6, np.int32),
        np.zeros(6, ">u4"),
        np.zeros((6, 1), np.uint32),
        np.zeros(0, np.uint32),
        np.zeros(12, np.uint32)[::2],
    ],
    ids=["float", "signed", "big-endian", "two dimensions", "empty", "strided"],
)
def test_wrong_vectors_are_refused_on_both_sides(vector):
    with pytest.raises(LocalProtocolError):
        secagg.upload(READY["hospital-0"], REQUEST, MODEL, vector)
    with pytest.raises(RemoteProtocolError, match=r"hospital-0: .*6 words of uint32"):
        open_session().add(UPLOADS["hospital-0"].header, vector)


def test_a_model_digest_of_another_length_is_refused():
    with pytest.raises(LocalProtocolError):
        secagg.upload(READY["hospital-0"], REQUEST, MODEL[:31], INPUTS["hospital-0"])


def check_refused(header, vector, arrived):
    session = open_session()
    for name in arrived:
        session.add(UPLOADS[name].header, UPLOADS[name].vector)
    with pytest.raises(RemoteProtocolError):
        session.add(header, vector)
    assert session.missing == tuple(name for name in names(4) if name not in arrived)
    for sent in UPLOADS.values():
        session.add(sent.header, sent.vector)
    assert session.result().tolist() == plain_sum(INPUTS.values())


@given(tampered(UPLOADS["hospital-2"].header), st.sets(st.sampled_from(names(4))))
def test_any_change_to_a_header_is_refused_and_changes_nothing(changed, arrived):
    check_refused(changed, UPLOADS["hospital-2"].vector, arrived)


@given(st.integers(0, 5), st.integers(1, 2**32 - 1), st.sets(st.sampled_from(["hospital-0", "hospital-1"])))
def test_any_change_to_a_masked_vector_is_refused_and_changes_nothing(index, change, arrived):
    damaged = UPLOADS["hospital-2"].vector.copy()
    damaged[index] ^= np.uint32(change)
    check_refused(UPLOADS["hospital-2"].header, damaged, arrived)
    check_refused(UPLOADS["hospital-2"].header, damaged[: max(index, 1)], arrived)


@pytest.mark.parametrize("words", [1, 5, 7])
def test_a_header_that_declares_another_length_is_refused(words):
    header = msgspec.structs.replace(decode(UPLOADS["hospital-2"].header, UploadHeader), words=words)
    check_refused(encode(header), UPLOADS["hospital-2"].vector, ())


def test_headers_swapped_between_hospitals_are_refused():
    check_refused(UPLOADS["hospital-1"].header, UPLOADS["hospital-2"].vector, ())


def test_uploads_for_another_session_model_or_list_are_refused_with_the_reason():
    state, vector = READY["hospital-0"], INPUTS["hospital-0"]
    for number, members, model, reason in [
        (2, names(4), MODEL, "session 2"),
        (1, names(4), OTHER_MODEL, "another model, list"),
        (1, names(3), MODEL, "another model, list"),
    ]:
        _, sent = secagg.upload(state, encode(SessionRequest(number, members)), model, vector)
        with pytest.raises(RemoteProtocolError, match=f"hospital-0: .*{reason}"):
            open_session().add(sent.header, sent.vector)


def test_an_upload_from_outside_the_contributors_is_refused():
    _, session = secagg.open_session(AGGREGATOR, 1, names(3), MODEL, 6)
    with pytest.raises(RemoteProtocolError, match="not one of the contributors"):
        session.add(UPLOADS["hospital-3"].header, UPLOADS["hospital-3"].vector)


def test_a_second_different_upload_is_refused_and_changes_nothing():
    _, second = secagg.upload(READY["hospital-2"], REQUEST, MODEL, INPUTS["hospital-2"] + np.uint32(1))
    check_refused(second.header, second.vector, ("hospital-2",))
