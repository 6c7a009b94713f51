"""What a contributor refuses in a `recover` round, with the reason, and which terms do not exist."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_parties import (
    MODEL,
    identity,
    make_terms,
    names,
    randomness,
    recover_states,
    recover_terms,
    set_up,
    upload_to,
    uploaded,
    vectors,
)

from fedmodels import secagg
from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RoundAborted
from fedmodels.secagg import recovery
from fedmodels.secagg.messages import Pairs, RecoverRequest, RevealPairs, RevealShares, Shares, decode, encode
from fedmodels.secagg.primitives import Secret, seal


def pairs(session_digest, *dropped):
    return encode(RevealPairs(session_digest, dropped))


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [
        ((), "nobody dropped out"),
        (("hospital-0",), "listed as dropped and asked as a survivor"),
        (("hospital-0", "hospital-1"), "listed as dropped and asked as a survivor"),
        (("hospital-1", "hospital-2"), "3 hospitals are left, at least 4"),
        (("hospital-1", "hospital-1"), "ascending order"),
        (("stranger",), "not contributors"),
    ],
)
def test_step_a_is_refused_with_the_reason_and_changes_nothing(dropped, reason):
    state = uploaded()[1]["hospital-0"]
    before, binding = secagg.dump(state), state.round.session_digest
    with pytest.raises(RemoteProtocolError, match=f"step A: .*{reason}"):
        secagg.reveal_pairs(state, pairs(binding, *dropped))
    with pytest.raises(RemoteProtocolError, match="last upload"):
        secagg.reveal_pairs(state, pairs(bytes(32), "hospital-1"))
    assert secagg.dump(state) == before


def test_the_list_of_the_dropped_only_grows():
    _, states, _, _ = uploaded(6, 4, 0)
    state = states["hospital-0"]
    binding = state.round.session_digest
    one, first = secagg.reveal_pairs(state, pairs(binding, "hospital-1"))
    two, second = secagg.reveal_pairs(one, pairs(binding, "hospital-1", "hospital-2"))
    assert decode(second, Pairs).seeds[:1] == decode(first, Pairs).seeds
    for wrong in [("hospital-1",), ("hospital-2",), ("hospital-2", "hospital-3")]:
        with pytest.raises(RemoteProtocolError, match="had dropped out is listed as a survivor"):
            secagg.reveal_pairs(two, pairs(binding, *wrong))
    with pytest.raises(RemoteProtocolError, match="at least 4 are needed"):
        secagg.reveal_pairs(two, pairs(binding, "hospital-1", "hospital-2", "hospital-3"))


def test_step_b_excludes_exactly_the_dropped_of_step_a():
    found, _, share_request, after_dropout = recover_states()
    _, _, state, revealed, unmasked = found
    with pytest.raises(RemoteProtocolError, match="not those whose pair seeds"):
        secagg.reveal_shares(revealed, share_request)
    with pytest.raises(RemoteProtocolError, match="not those whose pair seeds"):
        secagg.reveal_shares(state, after_dropout)
    with pytest.raises(RemoteProtocolError, match="out already, for another request"):
        secagg.reveal_shares(unmasked, after_dropout)
    _, reply = secagg.reveal_shares(revealed, after_dropout)
    assert len(decode(reply, Shares).shares) == 4


def test_shares_that_are_swapped_changed_or_of_another_dealer_do_not_open_and_too_few_or_many_are_refused():
    found, _, share_request, _ = recover_states()
    state, asked = found[2], decode(share_request, RevealShares)
    good, right = asked.shares, decode(secagg.reveal_shares(state, share_request)[1], Shares).shares
    changed = bytes([good[0][0] ^ 1]) + good[0][1:]
    for shares, places in [
        ((good[1], good[0], *good[2:]), {1, 2}),
        ((changed, *good[1:]), {1}),
        ((good[0],) * 4, {2, 3, 4}),
        ((bytes(48), *good[1:]), {1}),
    ]:
        after, reply = secagg.reveal_shares(state, encode(RevealShares(asked.session_digest, (), shares)))
        expected = tuple(None if place in places else share for place, share in enumerate(right))
        assert decode(reply, Shares).shares == expected
        with pytest.raises(RemoteProtocolError, match="out already"):
            secagg.reveal_shares(after, share_request)
    for shares in [good[:-1], (*good, good[0]), ()]:
        with pytest.raises(RemoteProtocolError, match="sealed shares for 5 survivors"):
            secagg.reveal_shares(state, encode(RevealShares(asked.session_digest, (), shares)))
    for shares in [(*good[1:], good[0]), (bytes(48),) * 4]:
        with pytest.raises(RemoteProtocolError, match="no share opens but this hospital's own"):
            secagg.reveal_shares(state, encode(RevealShares(asked.session_digest, (), shares)))
    with pytest.raises(RemoteProtocolError, match="last upload"):
        secagg.reveal_shares(state, encode(RevealShares(bytes(32), (), good)))
    assert secagg.reveal_shares(state, share_request)


def test_a_sealed_number_beyond_the_order_does_not_open():
    """Only the dealer itself, or a hospital that has its key, can seal one."""
    found, _, share_request, _ = recover_states()
    asked, kept = decode(share_request, RevealShares), found[2].round
    key, data = kept.share_keys["hospital-1"], recovery._share_data(kept.session_digest, "hospital-1", "hospital-0")
    sealed = seal(key, Secret(b"\xff" * 32), data)
    wrong = encode(RevealShares(asked.session_digest, (), (sealed, *asked.shares[1:])))
    shares = decode(secagg.reveal_shares(found[2], wrong)[1], Shares).shares
    assert [place for place, share in enumerate(shares) if share is None] == [1]


def test_a_hospital_may_demand_more_survivors_than_the_threshold():
    roster = recover_terms(6, 4).roster
    terms = secagg.Terms(b"r" * 16, b"s" * 32, roster, 5, 0, "recover", 4)
    states, aggregator = set_up(terms)
    _, session = secagg.open_recovery(aggregator, 1, names(6), MODEL, 3)
    few = encode(RecoverRequest(1, names(4)))
    with pytest.raises(RemoteProtocolError, match="at least 5 are needed"):
        secagg.check_request(states["hospital-0"], few)
    states, _ = upload_to(session, states, vectors(names(6), 3), arrive=names(4))
    binding = states["hospital-0"].round.session_digest
    assert secagg.reveal_pairs(states["hospital-0"], pairs(binding, "hospital-1"))
    with pytest.raises(RemoteProtocolError, match="at least 5 are needed"):
        secagg.reveal_pairs(states["hospital-0"], pairs(binding, "hospital-1", "hospital-2"))
    with pytest.raises(RoundAborted):
        session.advance()


@pytest.mark.parametrize(("mode", "wrong"), [("recover", "retry"), ("retry", "recover")])
def test_a_coordinator_that_asks_for_the_other_kind_of_round_is_refused(mode, wrong):
    terms = {"recover": recover_terms(4, 3), "retry": make_terms(4, 3)}
    states, _ = set_up(terms[mode])
    _, lying = set_up(terms[wrong])
    opening = {"retry": secagg.open_session, "recover": secagg.open_recovery}
    _, session = opening[wrong](lying, 1, names(4), MODEL, 1)
    with pytest.raises(RemoteProtocolError, match=f"`{wrong}` round, but the approved study says `{mode}`"):
        secagg.check_request(states["hospital-0"], session.request)
    with pytest.raises(LocalProtocolError, match=f"on_dropout `{mode}`"):
        opening[wrong](set_up(terms[mode])[1], 1, names(4), MODEL, 1)
    calls = {
        "retry": lambda state: secagg.upload(state, session.request, MODEL, np.zeros(1, np.uint32)),
        "recover": lambda state: secagg.upload_recover(
            state, session.request, MODEL, np.zeros(1, np.uint32), randomness(1)
        ),
    }
    with pytest.raises(RemoteProtocolError, match="approved study"):
        calls[mode](states["hospital-0"])
    with pytest.raises(LocalProtocolError, match="is not allowed in state Ready"):
        calls[wrong](states["hospital-0"])


def test_hospitals_that_pinned_another_threshold_or_kind_of_round_do_not_set_up_together():
    for other in (recover_terms(6, 4), make_terms(6, 2)):
        _, message = secagg.begin_setup(other, "hospital-1", identity("hospital-1"),
                                        randomness(1))  # fmt: skip
        with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*threshold"):
            secagg.collect(secagg.Aggregator(recover_terms(6, 5)), message)


@given(st.integers(1, 9), st.integers(-1, 10) | st.none(), st.integers(0, 4))
def test_recover_terms_exist_exactly_when_no_single_hospital_can_be_isolated(n, threshold, colluding):
    if threshold is not None and threshold <= n and 2 * threshold - n - colluding >= 2 and colluding + 2 <= n:
        assert recover_terms(n, threshold, colluding).least == max(threshold, colluding + 2)
    else:
        with pytest.raises(LocalProtocolError):
            recover_terms(n, threshold, colluding)


@pytest.mark.parametrize(("n", "colluding", "threshold"), [(3, 0, 3), (5, 1, 4), (10, 3, 8), (50, 10, 31 + 9),
                                                           (200, 40, 121 + 39)])  # fmt: skip
def test_the_terms_that_the_page_names_exist(n, colluding, threshold):
    assert recover_terms(n, threshold, colluding)


def test_n_3_with_threshold_2_is_refused_with_the_explanation_and_the_smallest_threshold():
    with pytest.raises(LocalProtocolError, match=r"could isolate 1 hospital.*threshold at least 3"):
        recover_terms(3, 2)
    with pytest.raises(LocalProtocolError, match="threshold is for"):
        secagg.Terms(b"r" * 16, b"s" * 32, recover_terms(3, 3).roster, 2, 0, "retry", 2)
    with pytest.raises(LocalProtocolError, match="`retry` or `recover`"):
        secagg.Terms(b"r" * 16, b"s" * 32, recover_terms(3, 3).roster, 2, 0, "hope", None)
