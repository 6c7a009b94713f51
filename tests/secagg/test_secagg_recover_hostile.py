"""A stateful search: a coordinator that tries everything, with a colluding hospital, isolates no honest one.

An omniscient model (`secagg_adversary.Knowledge`) holds whatever real contributors handed out, in all sessions, and
finds the smallest group whose sum can be opened. The control shows that it would find one.
"""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from secagg_adversary import Knowledge
from secagg_parties import MODEL, OTHER_MODEL, names, plain_sum, randomness, recover_terms, set_up, vectors
from secagg_tampering import tampered_bytes

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.messages import RecoverRequest, RevealPairs, RevealShares, encode

PARTIES = {(4, 3, 0): set_up(recover_terms(4, 3, 0))[0], (5, 4, 1): set_up(recover_terms(5, 4, 1))[0]}
LISTS = st.sets(st.integers(0, 4), max_size=2)
ANYBODY = st.integers(0, 4)


class LyingCoordinator(RuleBasedStateMachine):
    """Opens sessions with any list and model, asks anybody for anything in any order, swaps, replays, restarts."""

    restores_backups = False

    @initialize(shape=st.sampled_from(sorted(PARTIES)))
    def start(self, shape):
        self.n, threshold, colluding = shape
        states = PARTIES[shape]
        self.bound = 2 * threshold - self.n - colluding
        self.names = names(self.n)
        self.honest = self.names[: self.n - colluding]
        self.states = {name: states[name] for name in self.honest}
        self.known = Knowledge(recover_terms(*shape), {name: states[name] for name in self.names[len(self.honest) :]})
        self.inputs, self.sent, self.opened, self.number = {}, [], set(), 1
        self.backups = dict(self.states)

    def name(self, index):
        return self.names[index % self.n]

    def ask(self, name, request):
        """What a refused request changes: nothing. A granted one goes to the adversary, and works once more."""
        if name not in self.states:
            return
        self.sent.append((name, request))
        before = secagg.dump(self.states[name])
        try:
            state, reply = secagg.reveal(self.states[name], request)
        except RemoteProtocolError:
            assert secagg.dump(self.states[name]) == before
            return
        assert secagg.reveal(state, request) == (state, reply)
        self.states[name] = state
        self.known.reply(reply)

    @rule(
        absent=LISTS,
        other_model=st.sets(ANYBODY, max_size=1),
        other_list=st.sets(ANYBODY, max_size=1),
        skipped=LISTS,
        ahead=st.integers(0, 1),
    )
    def open_a_session(self, absent, other_model, other_list, skipped, ahead):
        self.number += ahead
        members = tuple(name for name in self.names if name not in {self.name(i) for i in absent})
        for index, name in enumerate(self.honest):
            shown = self.names if index in other_list else members
            model = OTHER_MODEL if index in other_model else MODEL
            request = encode(RecoverRequest(self.number, shown))
            vector = vectors([name], 2, hash((name, self.number, shown, model)) % 2**32)[name]
            if index in skipped:
                continue
            try:
                state, sent = secagg.upload_recover(
                    self.states[name], request, model, vector, randomness(f"{name}{self.number}")
                )
            except RemoteProtocolError:
                continue
            h = self.known.upload(request, model, sent)
            assert (h, name) not in self.inputs
            self.backups[name], self.states[name] = state, state
            self.inputs[h, name] = vector

    def session_of(self, name):
        state = self.states.get(name)
        return next((h for h, who in reversed(self.inputs) if who == name), None) if state else None

    @rule(to=ANYBODY, dropped=LISTS)
    def step_a(self, to, dropped):
        name = self.name(to)
        if h := self.session_of(name):
            self.ask(name, encode(RevealPairs(h, tuple(sorted({self.name(i) for i in dropped})))))

    @rule(to=ANYBODY, dropped=LISTS)
    def step_b(self, to, dropped):
        name, gone = self.name(to), {self.name(i) for i in dropped}
        h = self.session_of(name)
        if h and all(dealer in self.known.headers[h] for dealer in set(self.known.members[h]) - gone - {name}):
            self.ask(name, self.known.share_request(h, name, gone))

    @rule(lies=st.lists(st.tuples(st.sets(ANYBODY, max_size=1), *[st.booleans()] * 3), min_size=5, max_size=5))
    def lie_to_everybody(self, lies):
        """Each hospital gets its own list of the dropped, and then perhaps step B for the same or for nobody."""
        for index, (dropped, restarts, opens, forgets) in enumerate(lies):
            self.step_a(index, dropped)
            if restarts:
                self.restart(index)
            if opens:
                self.step_b(index, set() if forgets else dropped)

    @rule(victim=ANYBODY, restarts=st.booleans(), forgets=st.booleans())
    def single_out(self, victim, restarts, forgets):
        """All others are told that the victim dropped out, the victim that somebody else did; then step B."""
        for index in range(self.n):
            dropped = {victim if self.name(index) != self.name(victim) else victim + 1}
            self.step_a(index, dropped)
            if restarts:
                self.restart(index)
            self.step_b(index, set() if forgets else dropped)

    @rule(to=ANYBODY, dealers=st.permutations(range(4)), drop=LISTS)
    def step_b_with_shares_swapped(self, to, dealers, drop):
        name = self.name(to)
        h = self.session_of(name)
        if h and self.known.headers[h]:
            every = [header.shares for header in self.known.headers[h].values()]
            shares = tuple(every[i % len(every)][-1] for i in dealers[: len(self.known.members[h]) - 1])
            self.ask(name, encode(RevealShares(h, tuple(sorted({self.name(i) for i in drop})), shares)))

    @rule(data=st.data(), to=ANYBODY, change=st.booleans())
    def replay_or_tamper(self, data, to, change):
        if self.sent:
            _, request = data.draw(st.sampled_from(self.sent))
            self.ask(self.name(to), data.draw(tampered_bytes(request)) if change else request)

    @rule(to=ANYBODY)
    def restart(self, to):
        if (name := self.name(to)) in self.states:
            old = self.backups[name] if self.restores_backups else self.states[name]
            self.states[name] = secagg.load(secagg.dump(old))

    @invariant()
    def nobody_is_isolated(self):
        for h, group in self.known.isolated():
            assert len(group) >= self.bound
            if (h, frozenset(group)) not in self.opened:
                self.opened.add((h, frozenset(group)))
                opened = self.known.open(h, group).tolist()
                assert opened == plain_sum([self.inputs[h, name] for name in group])


LyingCoordinator.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLyingCoordinator = LyingCoordinator.TestCase


class WithBackups(LyingCoordinator):
    """The same, but a restart brings back the state after the last upload: a restored backup."""

    restores_backups = True


def test_control_the_search_isolates_a_hospital_once_old_states_are_restored():
    zero_to_three = range(4)
    machine = WithBackups()
    machine.start((4, 3, 0))
    machine.open_a_session(set(), set(), set(), set(), 0)
    for index in zero_to_three:
        machine.step_a(index, {(index + 1) % 3})
        machine.restart(index)
        machine.step_b(index, set())
    found = {len(group) for _, group in machine.known.isolated()}
    assert min(found) == 1 < machine.bound
    honest = LyingCoordinator()
    honest.start((4, 3, 0))
    honest.open_a_session(set(), set(), set(), set(), 0)
    for index in zero_to_three:
        honest.step_a(index, {(index + 1) % 3})
        honest.restart(index)
        honest.step_b(index, set())
    honest.nobody_is_isolated()


def test_control_the_random_search_alone_finds_it_too():
    searching = settings(max_examples=2000, stateful_step_count=30, deadline=None, derandomize=True,
                         phases=[Phase.generate], database=None)  # fmt: skip
    with pytest.raises(AssertionError, match="len"):
        run_state_machine_as_test(WithBackups, settings=searching)
