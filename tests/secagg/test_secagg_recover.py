"""`recover` rounds among honest parties: every dropout at every stage, restarts, repeated requests, the table."""

import contextlib
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_parties import (
    MODEL,
    OTHER_MODEL,
    announce,
    exchange,
    make_terms,
    names,
    plain_sum,
    randomness,
    recover_states,
    recover_terms,
    set_up,
    unmask,
    upload_to,
    uploaded,
    vectors,
)

from fedmodels import secagg
from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RoundAborted
from fedmodels.secagg import states as table


def subsets(members):
    return [set(some) for size in range(len(members) + 1) for some in itertools.combinations(members, size)]


class Everything:
    """One session of n hospitals, run again and again with other hospitals failing; replies are computed once."""

    def __init__(self, n, threshold):
        self.terms = recover_terms(n, threshold)
        states, self.aggregator = set_up(self.terms)
        self.inputs, self.replies = vectors(names(n), 3, n), {}
        _, session = self.open()
        self.states, self.sent = upload_to(session, states, self.inputs, arrive=())

    def open(self):
        return secagg.open_recovery(self.aggregator, 1, names(len(self.terms.roster)), MODEL, 3)

    def reply(self, name, history):
        """(state, reply) of a hospital after the requests that it received so far, in order."""
        if (name, history) not in self.replies:
            before = self.reply(name, history[:-1])[0] if history[:-1] else self.states[name]
            self.replies[name, history] = secagg.reveal(secagg.load(secagg.dump(before)), history[-1])
        return self.replies[name, history]

    def run(self, script):
        """Who is asked after the stages of the script (sets of those that answer), or the outcome once there is one."""
        _, session = self.open()
        asked, histories = set(self.inputs), dict.fromkeys(self.inputs, ())
        for answering in script:
            for name in sorted(asked & answering):
                if histories[name]:
                    session.answer(self.reply(name, histories[name])[1])
                else:
                    session.add(self.sent[name].header, self.sent[name].vector)
            try:
                requests = session.advance(lambda name: self.sent[name].vector)
            except RoundAborted as error:
                return error.missing
            if not requests:
                return session
            asked = set(requests)
            for name, request in requests.items():
                histories[name] = (*histories[name], request)
        return asked


def expected(everything, script):
    """The survivors, or a tuple of the missing, from the rules on the page."""
    members, least = set(everything.inputs), everything.terms.least
    alive, stages = set(script[0]), list(script[1:])
    if len(alive) < least:
        return tuple(sorted(members - alive))
    while alive != members and stages:
        answered = stages.pop(0)
        if answered == alive:
            break
        alive = answered
        if len(alive) < least:
            return tuple(sorted(members - alive))
    if len(stages[0]) < everything.terms.threshold:
        return tuple(sorted(alive - stages[0]))
    return alive


def all_terms(largest):
    """(n, threshold) of all terms that exist for up to `largest` hospitals, none of whom collude: 2t - n >= 2."""
    found = []
    for n, threshold in itertools.product(range(1, largest + 1), repeat=2):
        with contextlib.suppress(LocalProtocolError):
            recover_terms(n, threshold)
            found.append((n, threshold))
    return found


@pytest.mark.parametrize(("n", "threshold"), all_terms(6))
def test_every_dropout_pattern_at_every_stage_opens_the_exact_sum_or_names_the_missing(n, threshold):
    """Colluding hospitals only forbid small thresholds: what opens depends on n and the threshold alone."""
    everything, paths, opened = Everything(n, threshold), [()], 0
    while paths:
        script = paths.pop()
        outcome = everything.run(script)
        if isinstance(outcome, set):
            paths += [(*script, answering) for answering in subsets(sorted(outcome))]
        elif isinstance(outcome, tuple):
            assert outcome == expected(everything, script)
        else:
            survivors = expected(everything, script)
            assert set(outcome.survivors) == survivors
            assert outcome.result().tolist() == plain_sum([everything.inputs[name] for name in survivors])
            opened += 1
    assert opened >= 1


def test_the_dropout_patterns_are_those_of_every_number_of_hospitals_and_threshold():
    assert all_terms(6) == [(2, 2), (3, 3), (4, 3), (4, 4), (5, 4), (5, 5), (6, 4), (6, 5), (6, 6)]


def test_a_round_without_dropouts_is_two_exchanges_and_one_with_dropouts_three():
    states, aggregator = set_up(recover_terms(5, 4, 1))
    for arrive, exchanges in ((names(5), 1), (names(4), 2)):
        aggregator, session = secagg.open_recovery(aggregator, aggregator.next_session, names(5), MODEL, 3)
        states, _ = upload_to(session, states, vectors(names(5), 3), arrive=arrive)
        for left in range(exchanges, 0, -1):
            assert left
            states = exchange(session, states, session.advance())
        assert not session.advance()
        assert session.result().tolist() == plain_sum([vectors(names(5), 3)[name] for name in arrive])


@settings(max_examples=20)
@given(st.integers(4, 9), st.integers(1, 70_000), st.integers(0, 99))
def test_sums_over_several_chunks_sessions_and_dropouts_are_exact(n, words, seed):
    terms = recover_terms(n, n - (n - 2) // 2)
    states, aggregator = set_up(terms, seed)
    for number in (1, 2, 7):
        inputs = vectors(names(n), words, seed + number)
        gone = names(n)[: n - terms.least] if number > 1 else ()
        aggregator, session = secagg.open_recovery(aggregator, number, names(n)[::-1], MODEL, words)
        states, _ = upload_to(session, states, inputs, arrive=set(inputs) - set(gone), seed=seed + number)
        states, total = unmask(session, states)
        alive = [vector for name, vector in inputs.items() if name not in gone]
        np.testing.assert_array_equal(total, np.sum(alive, axis=0, dtype=np.uint32))
        assert not total.flags.writeable


def test_every_event_is_legal_exactly_where_the_table_says():
    recovering, pairs_request, share_request, _ = recover_states()
    terms = make_terms(5, 3, 1)
    retrying = [announce(terms)[0]["hospital-0"], set_up(terms)[0]["hospital-0"]]
    relayed = {"retry": secagg.relay(announce(terms)[1]), "recover": secagg.relay(announce(recovering[0].terms)[1])}
    _, aggregator = set_up(terms)
    request = {"retry": secagg.open_session(aggregator, 3, names(5), MODEL, 1)[1].request}
    _, aggregator = set_up(recovering[0].terms)
    request["recover"] = secagg.open_recovery(aggregator, 3, names(5), MODEL, 1)[1].request
    vector = np.zeros(1, np.uint32)
    events = {
        "finish_setup": lambda state, mode: secagg.finish_setup(state, relayed[mode]),
        "upload": lambda state, mode: secagg.upload(state, request[mode], MODEL, vector)[0],
        "upload_recover": lambda state, mode: secagg.upload_recover(state, request[mode], MODEL, vector, randomness(1))[
            0
        ],
        "reveal_pairs": lambda state, mode: secagg.reveal_pairs(state, pairs_request)[0],
        "reveal_shares": lambda state, mode: secagg.reveal_shares(state, shares_for(state))[0],
    }

    def shares_for(state):
        return recover_states()[3] if isinstance(state, secagg.PairsRevealed) else share_request

    assert [row.event for row in table.TRANSITIONS] == list(events)
    for state in (*recovering, *retrying):
        before, mode = secagg.dump(state), state.terms.on_dropout
        for row in table.TRANSITIONS:
            if isinstance(state, row.before) and mode in row.modes:
                assert type(events[row.event](state, mode)) is row.after
            else:
                with pytest.raises(row.error, match=f"`{row.event}` is not allowed in state {type(state).__name__}"):
                    events[row.event](state, mode)
            assert secagg.dump(state) == before


def test_the_table_releases_no_pair_seed_after_step_b_and_blames_the_coordinator_for_asking():
    assert not issubclass(secagg.Unmasked, table.REVEAL_PAIRS.before)
    assert not issubclass(table.REVEAL_SHARES.after, table.REVEAL_PAIRS.before)
    assert (table.REVEAL_PAIRS.error, table.REVEAL_SHARES.error) == (RemoteProtocolError, RemoteProtocolError)
    assert "pair_seeds" not in vars(recover_states()[0][4])


def test_the_same_request_again_gets_the_same_answer_also_after_a_restart():
    found, pairs_request, share_request, share_request_after_dropout = recover_states()
    _, _, state, revealed, _ = found
    for before, request in (
        (state, pairs_request),
        (state, share_request),
        (revealed, pairs_request),
        (revealed, share_request_after_dropout),
    ):
        after, reply = secagg.reveal(before, request)
        assert secagg.reveal(before, request) == (after, reply)
        for _ in range(2):
            again, repeated = secagg.reveal(secagg.load(secagg.dump(after)), request)
            assert (again, repeated) == (after, reply)


def test_a_repeated_upload_request_is_recognised_in_every_state_after_it():
    session, states, _, _ = uploaded()
    found = recover_states()[0]
    assert not secagg.is_repeat(found[1], session.request, MODEL)
    for state in found[2:]:
        restarted = secagg.load(secagg.dump(state))
        assert secagg.is_repeat(restarted, session.request, MODEL)
        assert not secagg.is_repeat(restarted, session.request, OTHER_MODEL)
        with pytest.raises(RemoteProtocolError, match="session is over"):
            secagg.upload_recover(restarted, session.request, MODEL, np.ones(3, np.uint32), randomness(2))
    assert states["hospital-0"] == found[2]


def test_a_new_upload_abandons_the_session_before_it_and_erases_its_keys():
    session, states, _, _ = uploaded(arrive=names(4))
    pairs_request = session.advance()["hospital-0"]
    old = secagg.dump(states["hospital-0"])
    _, aggregator = set_up(recover_terms(5, 4, 1))
    _, following = secagg.open_recovery(aggregator, 2, names(5), MODEL, 3)
    states, _ = upload_to(following, states, vectors(names(5), 3, 2))
    for seed in (*secagg.load(old).round.pair_seeds.values(), *secagg.load(old).round.share_keys.values()):
        assert seed.reveal() not in secagg.dump(states["hospital-0"])
    with pytest.raises(RemoteProtocolError, match="last upload"):
        secagg.reveal(states["hospital-0"], pairs_request)
    _, total = unmask(following, states)
    assert total.tolist() == plain_sum(vectors(names(5), 3, 2).values())


def test_step_b_erases_every_key_of_the_round():
    found = recover_states()[0]
    stored = secagg.dump(found[4])
    kept = found[2].round
    for key in (*kept.pair_seeds.values(), *kept.share_keys.values()):
        assert key.reveal() in secagg.dump(found[2])
        assert key.reveal() not in stored


def test_the_aggregator_needs_the_memory_of_two_vectors_however_many_hospitals_there_are():
    words = 300_000
    states, aggregator = set_up(recover_terms(12, 8))
    _, opened = secagg.open_recovery(aggregator, 1, names(12), MODEL, words)
    states, sent = upload_to(opened, states, vectors(names(12), words), arrive=())
    tracemalloc.start()
    _, session = secagg.open_recovery(aggregator, 1, names(12), MODEL, words)
    for name in names(12)[1:]:
        session.add(sent[name].header, sent[name].vector)
    unmask(session, states)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.7 * 4 * words  # two vectors, and 0.5 MB for a chunk, requests and answers
