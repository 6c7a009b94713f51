"""Whose fault wrong shares are: liars who are few are found, and no honest hospital is named whatever they arrange."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_parties import recover_terms
from test_secagg_recover_adversarial import all_uploaded, lying

from fedmodels.errors import WrongShares
from fedmodels.secagg.blame import liars

NAMES = [f"h{i}" for i in range(9)]


@st.composite
def arranged(draw):
    """(pairs, those who lied): every pair has a liar, and the liars chose which."""
    guilty = draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
    pair = st.builds(lambda a, b: frozenset({a, b}), st.sampled_from(sorted(guilty)), st.sampled_from(NAMES))
    return draw(st.sets(pair, max_size=20)), guilty


@given(arranged(), st.integers(0, 2))
def test_nobody_honest_is_named_while_no_more_lie_than_may(case, more):
    pairs, guilty = case
    assert set(liars(pairs, len(guilty) + more, len(guilty) + 3)) <= guilty


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
def test_those_who_lie_about_more_hospitals_than_may_lie_are_found(guilty):
    pairs = {frozenset({liar, other}) for liar in guilty for other in NAMES}
    assert set(liars(pairs, len(guilty), 3)) == guilty


def test_where_more_lied_than_may_the_smallest_explanation_is_taken_and_the_worst_comes_first():
    pairs = {frozenset({"a", other}) for other in "pqrs"} | {frozenset({"b", other}) for other in "tuv"}
    assert liars(pairs, 1, 2) == ("a", "b")
    assert liars(pairs, 1, 1) == ()


def test_a_single_pair_names_nobody():
    assert liars({frozenset({"a", "b"})}, 1, 1) == ()
    assert liars({frozenset({"a"})}, 1, 1) == ("a",)
    assert liars(set(), 1, 1) == ()


def framed(colluding):
    """Two hospitals lie together so that an honest one, whose shares they hold, looks like a dealer who lied."""
    session, states = all_uploaded(recover_terms(12, 8, colluding))
    lying(session, states, session.advance(), {"hospital-3": [0], "hospital-5": [0]})
    with pytest.raises(WrongShares) as caught:
        session.advance()
    return caught.value


def test_no_more_than_max_colluding_hospitals_can_have_an_honest_one_left_out():
    error = framed(colluding=2)
    assert error.liars == ()
    assert "hospital-0 or hospital-3, hospital hospital-0 or hospital-5" in error.where


def test_control_one_more_than_max_colluding_can():
    assert framed(colluding=1).liars == ("hospital-0",)


def test_one_lie_dealt_and_opened_between_the_same_two_says_nothing_about_either():
    """Both wrong shares are of one pair: counted twice, they would accuse whoever comes first."""
    pair = frozenset({"hospital-2", "hospital-4"})
    assert liars({pair, frozenset({"hospital-4", "hospital-2"})}, 1, 1) == ()
