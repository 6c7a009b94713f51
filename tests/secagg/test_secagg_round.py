"""Rounds among honest parties: exact sums, drop-outs, duplicates, restarts, and the table of transitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
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

from fedmodels import secagg
from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RoundAborted


def upload_all(states, session, inputs):
    """({name: new state}, {name: Upload})."""
    results = {name: secagg.upload(states[name], session.request, MODEL, inputs[name]) for name in inputs}
    return {n: state for n, (state, _) in results.items()}, {n: sent for n, (_, sent) in results.items()}


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_every_dropout_pattern_opens_the_exact_sum_or_names_the_missing(n):
    least = min(n, 3)
    states, aggregator = set_up(make_terms(n, least, least - 2))
    for size in range(least, n + 1):
        for contributors in itertools.combinations(names(n), size):
            inputs = vectors(contributors, 5)
            _, opened = secagg.open_session(aggregator, 1, contributors, MODEL, 5)
            _, uploads = upload_all(states, opened, inputs)
            for count in range(size + 1):
                for arrived in itertools.combinations(contributors, count):
                    _, session = secagg.open_session(aggregator, 1, contributors, MODEL, 5)
                    for name in reversed(arrived):
                        session.add(uploads[name].header, uploads[name].vector)
                    if count == size:
                        assert session.result().tolist() == plain_sum(inputs.values())
                        continue
                    missing = tuple(name for name in contributors if name not in arrived)
                    with pytest.raises(RoundAborted) as aborted:
                        session.result()
                    assert aborted.value.missing == missing == session.missing


@given(st.integers(3, 8), st.integers(1, 70_000), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_sum_is_exact_in_any_order_with_any_duplicates(n, words, seed, random):
    states, aggregator = set_up(make_terms(n, 3, 1), seed)
    inputs = vectors(names(n), words, seed)
    _, session = secagg.open_session(aggregator, 1, names(n), MODEL, words)
    _, uploads = upload_all(states, session, inputs)
    order = list(uploads) + random.choices(list(uploads), k=3)
    random.shuffle(order)
    for name in order:
        session.add(uploads[name].header, uploads[name].vector)
    np.testing.assert_array_equal(session.result(), np.sum(list(inputs.values()), axis=0, dtype=np.uint32))
    assert not session.result().flags.writeable


def test_a_run_survives_skipped_sessions_drop_outs_and_restarts_everywhere():
    announced, aggregator = announce(make_terms(4, 3, 1))
    relayed = secagg.relay(aggregator)
    states = {n: secagg.finish_setup(secagg.load(secagg.dump(state)), relayed) for n, state in announced.items()}
    everyone = names(4)
    for number, contributors in [(1, everyone), (2, everyone[:3]), (5, everyone[1:]), (1003, everyone)]:
        inputs = vectors(contributors, 3, number)
        aggregator, session = secagg.open_session(aggregator, number, contributors[::-1], MODEL, 3)
        states = {name: secagg.load(secagg.dump(state)) for name, state in states.items()}
        changed, uploads = upload_all(states, session, inputs)
        states |= changed
        for sent in uploads.values():
            session.add(sent.header, sent.vector)
        assert session.result().tolist() == plain_sum(inputs.values())


def test_a_vector_is_left_as_it_is():
    states, aggregator = set_up(make_terms(3))
    _, session = secagg.open_session(aggregator, 1, names(3), MODEL, 4)
    vector = np.arange(4, dtype=np.uint32)
    _, sent = secagg.upload(states["hospital-0"], session.request, MODEL, vector)
    assert vector.tolist() == [0, 1, 2, 3]
    assert not np.shares_memory(vector, sent.vector)


def test_a_session_number_is_used_once_and_never_goes_back():
    states, aggregator = set_up(make_terms(3))
    state, vector = states["hospital-0"], np.zeros(1, np.uint32)
    requests = {r: secagg.open_session(aggregator, r, names(3), MODEL, 1)[1].request for r in (1, 4, 5, 1005, 1006)}
    state, _ = secagg.upload(state, requests[4], MODEL, vector)
    for number in (1, 4, 1006):
        with pytest.raises(RemoteProtocolError, match="session"):
            secagg.upload(state, requests[number], MODEL, vector)
    for number in (5, 1005, 1006):
        state, _ = secagg.upload(state, requests[number], MODEL, vector)
    assert state.next_session == 1007


def test_n_3_with_2_colluding_is_refused_because_one_hospital_could_be_singled_out():
    with pytest.raises(LocalProtocolError, match="singled out"):
        make_terms(3, 3, 2)


@given(st.integers(0, 8), st.integers(-1, 9), st.integers(-2, 9))
def test_terms_exist_exactly_when_two_honest_hospitals_are_in_every_sum(n, least, colluding):
    if colluding >= 0 and least - colluding >= 2 and n >= least:
        assert make_terms(n, least, colluding).min_contributors == least
    else:
        with pytest.raises(LocalProtocolError):
            make_terms(n, least, colluding)


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": b"r" * 15},
        {"study_digest": b"s" * 33},
        {"roster": {"a": b"1" * 32, "b": b"1" * 32}},
        {"roster": {"a": b"1" * 32, "b": b"2" * 31}},
        {"roster": {"a": b"1" * 32, "": b"2" * 32}},
        {"roster": {"a": b"1" * 32, "b\n": b"2" * 32}},
        {"roster": {"a": b"1" * 32, "x" * 65: b"2" * 32}},
    ],
)
def test_malformed_terms_are_refused(change):
    valid = {"run_id": b"r" * 16, "study_digest": b"s" * 32, "roster": {"a": b"1" * 32, "b": b"2" * 32}}
    secagg.Terms(**valid, min_contributors=2, max_colluding=0)
    with pytest.raises(LocalProtocolError):
        secagg.Terms(**(valid | change), min_contributors=2, max_colluding=0)


def test_terms_do_not_change_when_the_callers_roster_does():
    roster = {"b": b"1" * 32, "a": b"2" * 32}
    terms = secagg.Terms(b"r" * 16, b"s" * 32, roster, 2, 0)
    roster["c"] = b"3" * 32
    assert tuple(terms.roster) == ("a", "b")
    with pytest.raises(TypeError):
        terms.roster["c"] = b"3" * 32


def test_set_up_needs_the_identity_key_that_the_roster_names():
    terms = make_terms(3)
    for name, key in [("hospital-0", identity("hospital-1")), ("stranger", identity("stranger"))]:
        with pytest.raises(LocalProtocolError, match="not on the roster"):
            secagg.begin_setup(terms, name, key, randomness(0))


def test_a_short_source_of_randomness_is_refused():
    with pytest.raises(LocalProtocolError, match="31 bytes instead of 32"):
        secagg.begin_setup(make_terms(3), "hospital-0", identity("hospital-0"), lambda n: b"x" * (n - 1))


def test_the_aggregator_waits_for_all_set_up_keys():
    terms = make_terms(3)
    _, message = secagg.begin_setup(terms, "hospital-1", identity("hospital-1"), randomness(0))
    aggregator = secagg.collect(secagg.Aggregator(terms), message)
    assert secagg.collect(aggregator, message) == aggregator
    assert aggregator.missing == ("hospital-0", "hospital-2")
    with pytest.raises(LocalProtocolError, match="hospital-0, hospital-2"):
        secagg.relay(aggregator)
    with pytest.raises(LocalProtocolError, match="hospital-0, hospital-2"):
        secagg.open_session(aggregator, 1, names(3), MODEL, 1)


@pytest.mark.parametrize(
    ("number", "contributors", "model", "words"),
    [
        (0, names(3), MODEL, 1),
        (2**53, names(3), MODEL, 1),
        (1, names(2), MODEL, 1),
        (1, (*names(3), "hospital-2"), MODEL, 1),
        (1, (*names(3), "stranger"), MODEL, 1),
        (1, names(3), MODEL[1:], 1),
        (1, names(3), MODEL, 0),
        (1, names(3), MODEL, (1 << 28) + 1),
    ],
)
def test_the_aggregator_opens_no_session_that_contributors_would_refuse(number, contributors, model, words):
    _, aggregator = set_up(make_terms(3, 3, 1))
    with pytest.raises(LocalProtocolError):
        secagg.open_session(aggregator, number, contributors, model, words)


def test_the_aggregator_opens_session_numbers_in_ascending_order():
    _, aggregator = set_up(make_terms(3))
    aggregator, _ = secagg.open_session(aggregator, 3, names(3), MODEL, 1)
    with pytest.raises(LocalProtocolError, match="at least 4"):
        secagg.open_session(aggregator, 3, names(3), MODEL, 1)


def test_a_repeated_request_is_recognised_so_that_the_stored_upload_can_be_sent_again():
    states, aggregator = set_up(make_terms(3))
    aggregator, session = secagg.open_session(aggregator, 1, names(3), MODEL, 1)
    _, other = secagg.open_session(aggregator, 2, names(3), MODEL, 1)
    before = states["hospital-0"]
    assert not secagg.is_repeat(before, session.request, MODEL)
    after, _ = secagg.upload(before, session.request, MODEL, np.zeros(1, np.uint32))
    after = secagg.load(secagg.dump(after))
    assert secagg.is_repeat(after, session.request, MODEL)
    assert not secagg.is_repeat(after, session.request, OTHER_MODEL)
    assert not secagg.is_repeat(after, other.request, MODEL)
    with pytest.raises(RemoteProtocolError, match="session is over"):
        secagg.upload(after, session.request, MODEL, np.ones(1, np.uint32))
    after, _ = secagg.upload(after, other.request, MODEL, np.zeros(1, np.uint32))
    assert not secagg.is_repeat(after, session.request, MODEL)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_vector_is_masked_in_place_only_where_that_is_asked_for(in_place):
    states, aggregator = set_up(make_terms(3))
    _, session = secagg.open_session(aggregator, 1, names(3), MODEL, 5)
    vector, before = np.arange(5, dtype=np.uint32), np.arange(5, dtype=np.uint32)
    _, sent = secagg.upload(states["hospital-0"], session.request, MODEL, vector, in_place=in_place)
    assert (sent.vector is vector) == in_place
    assert np.array_equal(vector, before) != in_place
