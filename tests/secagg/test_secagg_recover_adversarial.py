"""Every message of a `recover` round tampered with, swapped or replayed; hospitals that lie about shares are named."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_parties import MODEL, OTHER_MODEL, names, plain_sum, randomness, recover_terms, set_up, upload_to, vectors
from secagg_tampering import is_accepted, tampered

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError, WrongShares
from fedmodels.secagg.messages import Pairs, RecoverHeader, RecoverRequest, Shares, decode, encode
from fedmodels.secagg.primitives import seal
from fedmodels.secagg.recovery import _share_data
from fedmodels.secagg.shamir import scalars

READY, AGGREGATOR = set_up(recover_terms(5, 4, 1))
INPUTS = vectors(names(5), 6)
ALIVE = names(4)


def open_session():
    return secagg.open_recovery(AGGREGATOR, 1, names(5), MODEL, 6)[1]


REQUEST = open_session().request
UPLOADED, SENT = upload_to(open_session(), READY, INPUTS)


def advanced(arrive=ALIVE):
    """A session that asks for step A (or for step B, where all arrive), and its requests."""
    session = open_session()
    for name in arrive:
        session.add(SENT[name].header, SENT[name].vector)
    return session, session.advance()


PAIR_REQUEST = advanced()[1]["hospital-0"]
PAIRS = {name: secagg.reveal_pairs(UPLOADED[name], PAIR_REQUEST) for name in ALIVE}


def in_step_b():
    session, _ = advanced()
    for _, reply in PAIRS.values():
        session.answer(reply)
    return session, session.advance()


SHARE_REQUESTS = in_step_b()[1]
SHARES = {name: secagg.reveal_shares(PAIRS[name][0], SHARE_REQUESTS[name])[1] for name in ALIVE}


def finish(session):
    for reply in SHARES.values():
        session.answer(reply)
    assert not session.advance()
    assert session.result().tolist() == plain_sum([INPUTS[name] for name in ALIVE])


@given(tampered(REQUEST), st.sampled_from(names(5)))
def test_a_changed_session_request_is_refused_or_opens_nothing(changed, name):
    before = secagg.dump(READY[name])
    if not is_accepted(secagg.check_request, READY[name], changed):
        with pytest.raises(RemoteProtocolError):
            secagg.upload_recover(READY[name], changed, MODEL, INPUTS[name], randomness(1))
        assert secagg.dump(READY[name]) == before
        return
    _, sent = secagg.upload_recover(READY[name], changed, MODEL, INPUTS[name], randomness(1))
    with pytest.raises(RemoteProtocolError):
        open_session().add(sent.header, sent.vector)


@given(tampered(PAIR_REQUEST), st.sampled_from(ALIVE))
def test_a_changed_request_for_step_a_is_refused_or_is_another_one_that_the_rules_allow(changed, name):
    state, before = UPLOADED[name], secagg.dump(UPLOADED[name])
    if is_accepted(secagg.reveal_pairs, state, changed):
        (dropped,) = decode(secagg.reveal_pairs(state, changed)[1], Pairs).dropped
        assert dropped not in (name, "hospital-4")
    assert secagg.dump(state) == before


@given(data=st.data(), name=st.sampled_from(ALIVE))
def test_any_change_to_a_request_for_step_b_is_refused_or_gets_a_part_of_the_right_answer(data, name):
    state, before = PAIRS[name][0], secagg.dump(PAIRS[name][0])
    changed = data.draw(tampered(SHARE_REQUESTS[name]))
    if is_accepted(secagg.reveal_shares, state, changed):
        after, reply = secagg.reveal_shares(state, changed)
        pairs = list(zip(decode(reply, Shares).shares, decode(SHARES[name], Shares).shares, strict=True))
        assert all(answered in (None, right) for answered, right in pairs)
        assert any(answered is None for answered, _ in pairs)
        with pytest.raises(RemoteProtocolError, match="are out already"):
            secagg.reveal_shares(after, SHARE_REQUESTS[name])
    assert secagg.dump(state) == before
    assert secagg.reveal_shares(state, SHARE_REQUESTS[name])[1] == SHARES[name]


@pytest.mark.parametrize("holder", ALIVE)
def test_a_request_for_step_b_that_belongs_to_another_hospital_is_refused(holder):
    for name in ALIVE:
        assert is_accepted(secagg.reveal_shares, PAIRS[name][0], SHARE_REQUESTS[holder]) == (name == holder)


@given(tampered(SENT["hospital-2"].header))
def test_any_change_to_an_upload_is_refused_or_only_spoils_a_sealed_share_that_then_does_not_open(changed):
    session = open_session()
    for name in ("hospital-0", "hospital-1", "hospital-3"):
        session.add(SENT[name].header, SENT[name].vector)
    if not is_accepted(session.add, changed, SENT["hospital-2"].vector):
        assert session.missing == ("hospital-2", "hospital-4")
        session.add(SENT["hospital-2"].header, SENT["hospital-2"].vector)
        assert session.missing == ("hospital-4",)
        return
    before, after = decode(SENT["hospital-2"].header, RecoverHeader), decode(changed, RecoverHeader)
    assert msgspec.structs.replace(after, shares=before.shares) == before
    for name in session.advance():
        session.answer(PAIRS[name][1])
    replies = {n: secagg.reveal_shares(PAIRS[n][0], request)[1] for n, request in session.advance().items()}
    unopened = [name for name in ALIVE if None in decode(replies[name], Shares).shares]
    others = [name for name in names(5) if name != "hospital-2"]
    spoilt = [n for n, old, new in zip(others, before.shares, after.shares, strict=True) if old != new]
    assert unopened == [name for name in spoilt if name in ALIVE]
    for reply in replies.values():
        session.answer(reply)
    if unopened:
        with pytest.raises(
            WrongShares, match=f"step B, hospital hospital-2 or {unopened[0]}|{unopened[0]} or hospital-2"
        ):
            session.advance()


@given(tampered(PAIRS["hospital-2"][1]))
def test_any_change_to_an_answer_in_step_a_is_refused_or_spoils_a_seed(changed):
    """Seeds cannot be checked: a hospital that lies about one spoils the sum, as it can with its vector."""
    session, _ = advanced()
    if is_accepted(session.answer, changed):
        before, after = decode(PAIRS["hospital-2"][1], Pairs), decode(changed, Pairs)
        assert (after.dropped, after.session_digest) == (before.dropped, before.session_digest)
        assert after.sender in ALIVE
        return
    assert session.missing == ALIVE
    for _, reply in PAIRS.values():
        session.answer(reply)
    session.advance()
    finish(session)


@given(tampered(SHARES["hospital-2"]))
def test_any_change_to_an_answer_in_step_b_is_refused_or_noticed_where_there_is_redundancy(changed):
    session, requests = advanced(names(5))
    states = {name: secagg.reveal_shares(UPLOADED[name], requests[name]) for name in names(5)}
    with pytest.raises(RemoteProtocolError):
        session.answer(SHARES["hospital-2"])  # of the round with a dropout
    if is_accepted(in_step_b()[0].answer, changed):
        assert decode(changed, Shares).sender in ALIVE
    for _, reply in states.values():
        session.answer(reply)
    assert not session.advance()
    assert session.result().tolist() == plain_sum(INPUTS.values())


@pytest.mark.parametrize("what", ["sender", "session", "dropped", "number of secrets", "second"])
def test_answers_that_do_not_fit_are_refused_with_the_name_of_the_hospital(what):
    session, _ = advanced()
    answer = decode(PAIRS["hospital-1"][1], Pairs)
    changes = {
        "sender": {"sender": "hospital-4"},
        "session": {"session_digest": bytes(32)},
        "dropped": {"dropped": ("hospital-3",)},
        "number of secrets": {"seeds": answer.seeds * 2},
        "second": {"seeds": (scalars(1, randomness(3))[0],)},
    }
    if what == "second":
        session.answer(encode(answer))
    with pytest.raises(RemoteProtocolError, match="hospital-4" if what == "sender" else "hospital-1"):
        session.answer(encode(msgspec.structs.replace(answer, **changes[what])))
    with pytest.raises(RemoteProtocolError) as caught:
        session.answer(encode(msgspec.structs.replace(answer, sender="stranger")))
    assert "stranger" not in str(caught.value)


def test_a_share_beyond_the_order_is_refused():
    session, _ = in_step_b()
    answer = decode(SHARES["hospital-1"], Shares)
    wrong = msgspec.structs.replace(answer, shares=(secagg.primitives.Secret(b"\xff" * 32), *answer.shares[1:]))
    with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*no share"):
        session.answer(encode(wrong))


def test_uploads_of_another_session_kind_model_or_without_all_shares_are_refused():
    request = encode(RecoverRequest(2, names(5)))
    for asked, model in ((request, MODEL), (REQUEST, OTHER_MODEL)):
        _, sent = secagg.upload_recover(READY["hospital-0"], asked, model, INPUTS["hospital-0"], randomness(2))
        with pytest.raises(RemoteProtocolError, match="hospital-0"):
            open_session().add(sent.header, sent.vector)
    header = decode(SENT["hospital-0"].header, RecoverHeader)
    fewer = encode(msgspec.structs.replace(header, shares=header.shares[:-1]))
    with pytest.raises(RemoteProtocolError, match=r"hospital-0: .*sealed share for every contributor"):
        open_session().add(fewer, SENT["hospital-0"].vector)


def test_an_answer_without_the_share_of_its_own_secret_is_refused():
    session, _ = in_step_b()
    answer = decode(SHARES["hospital-1"], Shares)
    with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*its own secret"):
        session.answer(encode(msgspec.structs.replace(answer, shares=(answer.shares[0], None, *answer.shares[2:]))))


@pytest.mark.parametrize("message", [SENT["hospital-1"].header, PAIRS["hospital-1"][1], SHARES["hospital-1"]])
def test_a_message_is_from_whom_it_says(message):
    secagg.check_sender(message, "hospital-1")
    with pytest.raises(RemoteProtocolError, match=r"hospital-2: .*another hospital's"):
        secagg.check_sender(message, "hospital-2")
    with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*none that can be read"):
        secagg.check_sender(message[:-1], "hospital-1")


def dealt_wrong(how, holders):
    """Seven hospitals, threshold 5; the shares that hospital 6 deals to these holders do not open, or are numbers."""
    states, aggregator = set_up(recover_terms(7, 5))
    _, session = secagg.open_recovery(aggregator, 1, names(7), MODEL, 2)
    inputs = vectors(names(7), 2)
    states, sent = upload_to(session, states, inputs, arrive=names(6))
    header = decode(sent["hospital-6"].header, RecoverHeader)
    shares = list(header.shares)
    for i in holders:
        state = states[f"hospital-{i}"]
        h, key = state.round.session_digest, state.round.share_keys["hospital-6"]
        wrong = seal(key, scalars(1, randomness(i))[0], _share_data(h, "hospital-6", f"hospital-{i}"))
        shares[i] = wrong if how == "wrong number" else bytes(48)
    session.add(encode(msgspec.structs.replace(header, shares=tuple(shares))), sent["hospital-6"].vector)
    for name, request in session.advance().items():
        session.answer(secagg.reveal_shares(states[name], request)[1])
    return session, inputs


@pytest.mark.parametrize("how", ["does not open", "wrong number"])
def test_a_dealer_whose_shares_are_all_wrong_is_named_and_nobody_else(how):
    session, _ = dealt_wrong(how, range(6))
    with pytest.raises(WrongShares, match="hospital-6") as caught:
        session.advance()
    assert caught.value.liars == ("hospital-6",)


def test_shares_that_do_not_open_cost_nothing_while_enough_others_do():
    session, inputs = dealt_wrong("does not open", range(2))
    assert not session.advance()
    assert session.result().tolist() == plain_sum(inputs.values())


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(3, 3, 0), (4, 3, 0), (5, 4, 1)])
def test_a_dealer_whose_shares_open_for_nobody_is_named_also_where_the_decoder_can_correct_none(
    n, threshold, colluding
):
    states, aggregator = set_up(recover_terms(n, threshold, colluding))
    _, session = secagg.open_recovery(aggregator, 1, names(n), MODEL, 2)
    states, sent = upload_to(session, states, vectors(names(n), 2), arrive=names(n)[1:])
    header = decode(sent["hospital-0"].header, RecoverHeader)
    sealed = encode(msgspec.structs.replace(header, shares=(bytes(48),) * (n - 1)))
    session.add(sealed, sent["hospital-0"].vector)
    for name, request in session.advance().items():
        session.answer(secagg.reveal_shares(states[name], request)[1])
    with pytest.raises(WrongShares) as caught:
        session.advance()
    assert caught.value.liars == ("hospital-0",)


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(4, 3, 0), (5, 4, 0), (5, 4, 1)])
def test_nobody_is_named_for_a_wrong_number_where_the_decoder_can_correct_none(n, threshold, colluding):
    session, states = all_uploaded(recover_terms(n, threshold, colluding))
    lying(session, states, session.advance(), {"hospital-2": [0]})
    with pytest.raises(WrongShares, match="too few answers to tell") as caught:
        session.advance()
    assert caught.value.liars == ()
    assert "hospital" not in caught.value.where


def test_a_dealer_is_named_from_as_many_unopened_shares_as_keep_its_secret_closed():
    session, _ = dealt_wrong("does not open", range(3))
    with pytest.raises(WrongShares) as caught:
        session.advance()
    assert caught.value.liars == ("hospital-6",)


def test_control_two_liars_where_one_was_planned_for_have_an_honest_dealer_named():
    """They bring its shares further from any polynomial than one could; with two planned for, nobody is named."""
    for colluding, named in ((1, ("hospital-6",)), (2, ())):
        session, states = all_uploaded(recover_terms(8, 6, colluding))
        lying(session, states, session.advance(), {"hospital-1": [6], "hospital-2": [6]})
        with pytest.raises(WrongShares) as caught:
            session.advance()
        assert caught.value.liars == named


def all_uploaded(terms):
    """(session, states) before step B, nobody dropped out."""
    states, aggregator = set_up(terms)
    everybody = tuple(terms.roster)
    _, session = secagg.open_recovery(aggregator, 1, everybody, MODEL, 2)
    states, _ = upload_to(session, states, vectors(everybody, 2))
    return session, states


def lying(session, states, requests, lies):
    """Step B, where hospitals in `lies` hand out wrong shares of these dealers."""
    for name, request in requests.items():
        answer = decode(secagg.reveal_shares(states[name], request)[1], Shares)
        shares = list(answer.shares)
        for dealer in lies.get(name, ()):
            shares[dealer] = scalars(1, randomness(f"{name} {dealer}"))[0]
        session.answer(encode(msgspec.structs.replace(answer, shares=tuple(shares))))


@pytest.mark.parametrize(
    ("lies", "named"),
    [
        ({"hospital-2": range(7)}, r"step B, hospital hospital-2: "),
        ({"hospital-2": [0, 5]}, r"step B, hospital hospital-2: "),
        ({"hospital-2": [4]}, r"step B, hospital hospital-2 or hospital-4: "),
        ({"hospital-2": [2]}, r"step B, hospital hospital-2: "),
    ],
)
def test_who_lied_about_shares_is_named(lies, named):
    session, states = all_uploaded(recover_terms(7, 5))
    lying(session, states, session.advance(), lies)
    with pytest.raises(RemoteProtocolError, match=named):
        session.advance()


def test_two_liars_are_named_where_there_is_redundancy_for_two():
    terms = recover_terms(12, 8)
    states, aggregator = set_up(terms)
    _, session = secagg.open_recovery(aggregator, 1, names(12), MODEL, 2)
    states, _ = upload_to(session, states, vectors(names(12), 2))
    lying(session, states, session.advance(), {"hospital-2": range(12), "hospital-11": [0, 5]})
    with pytest.raises(RemoteProtocolError, match=r"hospital hospital-2, hospital hospital-11: "):
        session.advance()


def test_a_dealer_whose_shares_do_not_fit_together_is_named():
    """Hospital 0 gives a share of another polynomial to hospitals 3 and 5."""
    terms = recover_terms(12, 8)
    states, aggregator = set_up(terms)
    _, session = secagg.open_recovery(aggregator, 1, names(12), MODEL, 2)
    states, _ = upload_to(session, states, vectors(names(12), 2))
    lying(session, states, session.advance(), {"hospital-3": [0], "hospital-5": [0]})
    with pytest.raises(RemoteProtocolError, match=r"hospital hospital-0: "):
        session.advance()


def test_exactly_threshold_answers_cannot_be_checked_and_spoil_the_sum_as_any_vector_could():
    session, requests = in_step_b()
    lying(session, {name: state for name, (state, _) in PAIRS.items()}, requests, {"hospital-2": [0]})
    assert not session.advance()
    assert session.result().tolist() != plain_sum([INPUTS[name] for name in ALIVE])
    assert np.unique(session.result()).size > 1
