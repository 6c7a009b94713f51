"""The smallest group of honest hospitals that a lying coordinator can isolate, by exhaustive search.

The search runs over an abstract model of the contributor, which is tested to agree with the real one; attacks at the
bound, and the controls that break a rule, are carried out with the real one.
"""

import itertools

import pytest
from secagg_adversary import Knowledge, behaviours, isolated
from secagg_parties import MODEL, OTHER_MODEL, names, plain_sum, randomness, recover_terms, set_up, vectors

from fedmodels import secagg
from fedmodels.audit.evidence import fewest_in_a_sum
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.messages import Pairs, RevealPairs, Shares, decode, encode
from fedmodels.secagg.terms import Terms


def smallest_of_all_lies(n, threshold, colluding, choices=behaviours):
    """The smallest isolated group over every assignment of lies to every honest hospital."""
    honest, members = range(n - colluding), range(n)
    found = []
    for assignment in itertools.product(*(choices(n, threshold, name, members) for name in honest)):
        lies = {name: lie for name, lie in zip(honest, assignment, strict=True) if lie is not None}
        found.append(isolated(threshold, colluding, honest, lies))
    return min((size for size in found if size is not None), default=None)


ALLOWED = [(3, 3, 0), (3, 3, 1), (4, 3, 0), (4, 4, 0), (4, 4, 1), (4, 4, 2), (5, 4, 0), (5, 4, 1), (5, 5, 2)]


@pytest.mark.parametrize(("n", "threshold", "colluding"), ALLOWED)
def test_no_lies_isolate_fewer_than_2t_n_c_honest_hospitals(n, threshold, colluding):
    smallest = smallest_of_all_lies(n, threshold, colluding)
    assert smallest >= 2 * threshold - n - colluding >= 2
    sizes = range(1, n - colluding + 1)
    assert smallest == next(size for size in sizes if can_isolate(n, threshold, colluding, size))


def can_isolate(n, threshold, colluding, size):
    """Whether a set S of `size` honest hospitals can be isolated, by exhaustive search up to symmetry.

    All hospitals of S see the same and do step B; revealing more only helps, so each other hospital j does step B too
    and only its D within S, a subset X_j, matters. A member i of S must then reveal its seeds with every j that does
    not list i, D_i = {j: i not in X_j}, and exactly these and S hold shares of i that are released.
    """
    others = n - colluding - size
    lists = [x for some in range(min(size, n - threshold) + 1) for x in itertools.combinations(range(size), some)]
    for chosen in itertools.combinations_with_replacement(lists, others):
        needed = [sum(i not in x for x in chosen) for i in range(size)]
        if all(own <= n - threshold and own + size + colluding >= threshold for own in needed):
            return True
    return False


@pytest.mark.parametrize("n", range(2, 11))
def test_the_bound_holds_for_every_threshold_and_number_of_colluders(n):
    """U may be smaller than the roster; c of the hospitals in U collude."""
    for threshold, colluding in itertools.product(range(1, n + 1), range(n)):
        for contributors in range(threshold, n + 1):
            bound = 2 * threshold - contributors - colluding
            for size in range(1, bound if 2 * threshold - n - colluding >= 2 else 1):
                assert not can_isolate(contributors, threshold, colluding, size)


def test_the_audits_lying_coordinator_isolates_as_few_as_the_search_finds():
    for contributors in range(2, 8):
        for threshold, colluding in itertools.product(range(1, contributors + 1), range(contributors - 1)):
            sizes = range(1, contributors - colluding + 1)
            smallest = next(size for size in sizes if can_isolate(contributors, threshold, colluding, size))
            assert fewest_in_a_sum(contributors, threshold, colluding) == smallest


def test_the_bound_is_reached_so_that_it_cannot_be_relaxed():
    """For n=3, t=2, c=0 and for n=4, t=3, c=1 it is 1, and one hospital falls."""
    for n, threshold, colluding in [(3, 2, 0), (4, 3, 1), (4, 3, 0), (5, 4, 1), (6, 5, 2), (10, 8, 3), (8, 5, 0)]:
        assert can_isolate(n, threshold, colluding, 2 * threshold - n - colluding)


def only_step_b(n, threshold, name, members):
    return [lie for lie in behaviours(n, threshold, name, members) if lie is None or lie[1]]


def views(n, least, name):
    """(U, model) that a coordinator may show one hospital in a `retry` session."""
    others = [other for other in range(n) if other != name]
    return [
        (frozenset((name, *some)), model)
        for size in range(least - 1, n)
        for some in itertools.combinations(others, size)
        for model in (1, 2)
    ]


@pytest.mark.parametrize(("n", "least", "colluding"), [(3, 2, 0), (3, 3, 1), (4, 3, 0), (4, 3, 1), (5, 4, 2)])
def test_retry_opens_nothing_smaller_than_u_less_the_colluding(n, least, colluding):
    """No seed is ever revealed: masks of a group cancel only where it is all of U that is honest, shown one view."""
    honest, found = range(n - colluding), set()
    for shown in itertools.product(*(views(n, least, name) for name in honest)):
        for view in set(shown):
            group = {name for name in honest if shown[name] == view}
            if group == view[0] & set(honest):
                found.add(len(group))
                assert len(group) >= len(view[0]) - colluding
    assert min(found) == least - colluding >= 2


# The model agrees with the real contributor


def model_step(state, kind, dropped, n, threshold):
    """The page's rules for hospital 0 of n: (new state, accepted, what is released). state: (D, answered step B)."""
    before, answered = state
    if kind == "A":
        fits = dropped and 0 not in dropped and before <= dropped and n - len(dropped) >= threshold
        return ((dropped, None), True, dropped) if fits and answered is None else (state, False, set())
    if answered is not None:
        return state, answered == dropped, set(range(n)) - dropped
    fits = dropped == before
    return ((before, dropped), True, set(range(n)) - dropped) if fits else (state, False, set())


@pytest.mark.parametrize(("n", "threshold", "length"), [(3, 3, 4), (4, 3, 3), (5, 4, 2)])
def test_the_model_and_the_real_contributor_accept_and_release_the_same_after_every_sequence(n, threshold, length):
    states, aggregator = set_up(recover_terms(n, threshold))
    _, session = secagg.open_recovery(aggregator, 1, names(n), MODEL, 2)
    known, real = Knowledge(recover_terms(n, threshold), {}), {}
    for name, vector in vectors(names(n), 2).items():
        real[name], sent = secagg.upload_recover(states[name], session.request, MODEL, vector, randomness(name))
        h = known.upload(session.request, MODEL, sent)
    requests = []
    for size in range(n + 1):
        for some in itertools.combinations(range(n), size):
            dropped = tuple(names(n)[i] for i in some)
            requests.append(("A", frozenset(some), encode(RevealPairs(h, dropped))))
            requests.append(("B", frozenset(some), known.share_request(h, "hospital-0", dropped)))
    final = {lie for lie in behaviours(n, threshold, 0, range(n)) if lie is not None}
    paths = [(real["hospital-0"], (frozenset(), None), 0)]
    while paths:
        state, abstract, depth = paths.pop()
        assert (abstract[0], abstract[1] is not None) in final
        for kind, dropped, request in requests:
            expected, accepted, released = model_step(abstract, kind, dropped, n, threshold)
            try:
                after, reply = (secagg.reveal_pairs if kind == "A" else secagg.reveal_shares)(state, request)
            except RemoteProtocolError:
                assert not accepted
                continue
            assert accepted
            check_released(reply, kind, {names(n)[i] for i in released}, real)
            if depth + 1 < length:
                paths.append((after, expected, depth + 1))


def check_released(reply, kind, released, real):
    """Exactly the secrets of the peers that the model says, and the right ones."""
    if kind == "A":
        answer = decode(reply, Pairs)
        seeds = real["hospital-0"].round.pair_seeds
        assert dict(zip(answer.dropped, answer.seeds, strict=True)) == {peer: seeds[peer] for peer in released}
    else:
        assert len(decode(reply, Shares).shares) == len(released)
        assert set(real) - set(decode(reply, Shares).dropped) == released


# Attacks with real contributors


def attack(terms, colluding, lies, rollback=()):
    """Bring each honest hospital to (D, step B done) of `lies`; hospitals in `rollback` restart from the state before
    step A, and then do step B with nobody dropped. Returns what is known, and the inputs."""
    n = len(terms.roster)
    states, aggregator = set_up(terms)
    _, session = secagg.open_recovery(aggregator, 1, names(n), MODEL, 4)
    known = Knowledge(terms, {name: states[name] for name in names(n)[n - colluding :]})
    inputs = vectors(names(n), 4)
    for name in lies:
        states[name], sent = secagg.upload_recover(states[name], session.request, MODEL, inputs[name], randomness(name))
        h = known.upload(session.request, MODEL, sent)
    for name, (dropped, opened) in lies.items():
        before = secagg.dump(states[name])
        if dropped:
            states[name], reply = secagg.reveal_pairs(states[name], encode(RevealPairs(h, tuple(sorted(dropped)))))
            known.reply(reply)
        if name in rollback:
            states[name], dropped = secagg.load(before), frozenset()
        if opened:
            states[name], reply = secagg.reveal_shares(states[name], known.share_request(h, name, dropped))
            known.reply(reply)
    return known, inputs


def check_opens(known, inputs, size):
    """The smallest isolated groups have this many hospitals, and their sum really is read."""
    found = [(h, group) for h, group in known.isolated() if len(group) == size]
    assert found
    assert size == min(len(group) for _, group in known.isolated())
    for h, group in found:
        assert known.open(h, group).tolist() == plain_sum([inputs[name] for name in group])


def lies_that_isolate(n, threshold, colluding, size):
    """Found by the search, for the real contributors to be told."""
    honest = range(n - colluding)
    for assignment in itertools.product(*(only_step_b(n, threshold, name, range(n)) for name in honest)):
        lies = {name: lie for name, lie in zip(honest, assignment, strict=True) if lie is not None}
        if len(lies) == len(honest) and isolated(threshold, colluding, honest, lies) == size:
            return {names(n)[i]: (frozenset(names(n)[j] for j in d), opened) for i, (d, opened) in lies.items()}
    raise AssertionError


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(4, 3, 0), (5, 4, 1)])
def test_lies_to_real_contributors_reach_the_bound_and_open_two_together(n, threshold, colluding):
    lies = lies_that_isolate(n, threshold, colluding, 2)
    check_opens(*attack(recover_terms(n, threshold, colluding), colluding, lies), 2)


def test_control_n_3_t_2_isolates_one_hospital_if_its_terms_were_not_refused(monkeypatch):
    assert smallest_of_all_lies(3, 2, 0) == 1
    assert can_isolate(3, 2, 0, 1)
    monkeypatch.setattr(Terms, "_recover_problem", lambda self: "")
    zero, one, two = names(3)
    lies = {zero: (frozenset([one]), True), one: (frozenset(), True), two: (frozenset([zero]), False)}
    check_opens(*attack(recover_terms(3, 2), 0, lies), 1)


def both_kinds(n, threshold, name, members):
    """Behaviours without the rule "never both kinds for the same peer": step B ignores the D of step A."""
    d_b = [lie for lie in behaviours(n, threshold, name, members) if lie is not None and lie[1]]
    return [(d, opened, b) for (d, opened), (b, _) in itertools.product(d_b, d_b)]


@pytest.mark.parametrize(("n", "threshold"), [(3, 3), (4, 3)])
def test_control_without_the_rule_the_search_isolates_hospitals_that_it_protects(n, threshold):
    smallest = smallest_of_all_lies(n, threshold, 0, both_kinds)
    assert smallest == (1 if threshold < n else 3)  # t = n tolerates no dropout, so nothing is ever revealed in step A
    assert smallest_of_all_lies(n, threshold, 0) == 2 * threshold - n


def test_control_restoring_an_older_state_breaks_the_rule_and_isolates_one_hospital():
    """n=4, t=3: every hospital is told that another one dropped out, restarts as it was before, and does step B."""
    zero, one, two, three = names(4)
    dropped = {zero: one, one: two, two: zero, three: zero}
    lies = {name: (frozenset([peer]), True) for name, peer in dropped.items()}
    known, _ = attack(recover_terms(4, 3), 0, lies)
    assert not [group for _, group in known.isolated() if len(group) < 2]
    check_opens(*attack(recover_terms(4, 3), 0, lies, rollback=names(4)), 1)


def test_hospitals_that_were_shown_another_model_reveal_nothing_about_this_one():
    """n=4, t=3: with hospital 3 elsewhere, the others hide each other and hospital 3's upload stays closed."""
    terms = recover_terms(4, 3)
    states, aggregator = set_up(terms)
    _, session = secagg.open_recovery(aggregator, 1, names(4), MODEL, 4)
    known = Knowledge(terms, {})
    for name, vector in vectors(names(4), 4).items():
        model = OTHER_MODEL if name == "hospital-3" else MODEL
        states[name], sent = secagg.upload_recover(states[name], session.request, model, vector, randomness(name))
        known.upload(session.request, model, sent)
    (h, _), (other, _) = sorted(((h, len(by)) for h, by in known.masked.items()), key=lambda item: -item[1])
    for name in names(3):
        states[name], reply = secagg.reveal_pairs(states[name], encode(RevealPairs(h, ("hospital-3",))))
        known.reply(reply)
        states[name], reply = secagg.reveal_shares(states[name], known.share_request(h, name, ("hospital-3",)))
        known.reply(reply)
    assert [(digest, len(group)) for digest, group in known.isolated()] == [(h, 3)]
    with pytest.raises(RemoteProtocolError, match="last upload"):
        secagg.reveal_pairs(states["hospital-3"], encode(RevealPairs(h, ("hospital-0",))))
    assert other not in dict(known.isolated())
