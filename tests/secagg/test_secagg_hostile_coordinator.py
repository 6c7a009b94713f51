"""A stateful search for any order of requests, replays and restarts that opens what it must not."""

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from secagg_parties import MODEL, OTHER_MODEL, make_terms, names, plain_sum, set_up, vectors

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.messages import SessionRequest, UploadHeader, decode, encode

READY, _ = set_up(make_terms(4, 3, 1))


@settings(max_examples=25, stateful_step_count=25)
class HostileCoordinator(RuleBasedStateMachine):
    """Asks anything of anybody in any order, replays, restarts hospitals, and adds up whatever it holds."""

    uploads = Bundle("uploads")

    @initialize()
    def start(self):
        self.states = dict(READY)
        self.used = dict.fromkeys(names(4), 0)
        self.seen = {}

    @rule(
        target=uploads,
        name=st.sampled_from(names(4)),
        number=st.integers(1, 6),
        members=st.sets(st.sampled_from(names(4)), min_size=2),
        model=st.sampled_from([MODEL, OTHER_MODEL]),
        seed=st.integers(0, 2**32),
    )
    def ask(self, name, number, members, model, seed):
        request = encode(SessionRequest(number, tuple(sorted(members))))
        vector = vectors([name], 6, seed)[name]
        before = secagg.dump(self.states[name])
        allowed = number > self.used[name] and name in members and len(members) >= 3
        try:
            state, sent = secagg.upload(self.states[name], request, model, vector)
        except RemoteProtocolError:
            assert not allowed
            assert secagg.dump(self.states[name]) == before
            return None
        assert allowed
        self.states[name], self.used[name] = state, number
        binding = decode(sent.header, UploadHeader).session_digest
        assert self.seen.setdefault((name, number), binding) == binding
        return binding, frozenset(members), name, vector, sent.vector

    @rule(name=st.sampled_from(names(4)))
    def restart(self, name):
        self.states[name] = secagg.load(secagg.dump(self.states[name]))

    @rule(group=st.lists(uploads, min_size=1, max_size=4))
    def add_up(self, group):
        group = [upload for upload in group if upload is not None]
        by_name = {upload[2]: upload for upload in group}
        assume(group and len(by_name) == len(group))
        opens = len({upload[0] for upload in group}) == 1 and group[0][1] == by_name.keys()
        total = plain_sum([upload[4] for upload in group])
        assert (total == plain_sum([upload[3] for upload in group])) == opens

    @invariant()
    def session_numbers_only_grow(self):
        for name, state in self.states.items():
            assert state.next_session == self.used[name] + 1


TestHostileCoordinator = HostileCoordinator.TestCase
