"""Honest parties, a bad network: lost, late and repeated messages, crashes, cascades. The sum is exact, or nothing."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from secagg_parties import MODEL, names, plain_sum, randomness, recover_terms, set_up, upload_to, vectors

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError, RoundAborted

TERMS = recover_terms(5, 4, 0)
READY, AGGREGATOR = set_up(TERMS)
WIDE = recover_terms(7, 5, 0)
WIDE_READY, WIDE_AGGREGATOR = set_up(WIDE)
WORDS = 5
FEW = st.sets(st.integers(0, 6), max_size=1)


class Hospital:
    """What a hospital keeps on its disk: state and last upload, written before anything is sent."""

    def __init__(self, state):
        self.disk, self.sent = secagg.dump(state), None

    def upload(self, request, vector, seed):
        state = secagg.load(self.disk)
        if not secagg.is_repeat(state, request, MODEL):
            state, self.sent = secagg.upload_recover(state, request, MODEL, vector, randomness(seed))
            self.disk = secagg.dump(state)
        return self.sent

    def reveal(self, request):
        state, reply = secagg.reveal(secagg.load(self.disk), request)
        self.disk = secagg.dump(state)
        return reply


class BadNetwork(RuleBasedStateMachine):
    """Every hospital restarts from its disk before each message. Messages wait in a box that loses and repeats them."""

    @initialize(wide=st.booleans())
    def start(self, wide):
        self.terms, self.aggregator = (WIDE, WIDE_AGGREGATOR) if wide else (TERMS, AGGREGATOR)
        self.hospitals = {name: Hospital(state) for name, state in (WIDE_READY if wide else READY).items()}
        self.inputs, self.old = {}, []
        self.open()

    def open(self):
        members, number = names(len(self.hospitals)), self.aggregator.next_session
        self.aggregator, self.session = secagg.open_recovery(self.aggregator, number, members, MODEL, WORDS)
        self.inputs = vectors(members, WORDS, number)
        self.requests, self.kind = dict.fromkeys(members, self.session.request), "upload"
        self.box, self.uploads, self.stage = [], {}, (number, 0)

    @rule(data=st.data())
    def deliver_a_request(self, data):
        self.deliver_to(data.draw(st.sampled_from(sorted(self.requests))))

    @rule(lost=FEW, late=FEW, keep=st.booleans(), order=st.randoms(use_true_random=False))
    def a_stage(self, lost, late, keep, order):
        """Some requests and replies are lost or come too late, all others in any order; then the next stage."""
        gone = {f"hospital-{i}" for i in lost | late}
        for name in self.requests:
            if name not in {f"hospital-{i}" for i in lost}:
                self.deliver_to(name)
        order.shuffle(self.box)
        waiting, self.box = self.box, []
        for reply in waiting:
            if reply[0] in gone:
                self.box.append(reply)
            else:
                self.receive(*reply)
        self.go_on(keep)

    def deliver_to(self, name):
        hospital, request = self.hospitals[name], self.requests[name]
        if self.kind == "upload":
            sent = hospital.upload(request, self.inputs[name], f"{name}/{self.aggregator.next_session}")
            assert self.uploads.setdefault(name, sent) == sent
            self.box.append((name, self.stage, sent))
        else:
            self.box.append((name, self.stage, hospital.reveal(request)))

    @precondition(lambda self: self.box)
    @rule(data=st.data(), repeat=st.booleans())
    def deliver_reply(self, data, repeat):
        place = data.draw(st.integers(0, len(self.box) - 1))
        reply = self.box[place] if repeat else self.box.pop(place)
        self.receive(*reply)

    def receive(self, name, stage, reply):
        self.old.append(reply)
        try:
            if isinstance(reply, secagg.Upload):
                self.session.add(reply.header, reply.vector)
            else:
                self.session.answer(reply)
        except RemoteProtocolError:
            assert stage != self.stage  # it came too late; those of this stage are never refused

    @precondition(lambda self: self.box)
    @rule()
    def lose_replies(self):
        self.box.clear()

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def replay_an_old_reply(self, data):
        reply = data.draw(st.sampled_from(self.old))
        before = self.session.missing, self.session.survivors
        try:
            self.session.answer(reply) if isinstance(reply, bytes) else self.session.add(reply.header, reply.vector)
        except RemoteProtocolError:
            assert (self.session.missing, self.session.survivors) == before

    @precondition(lambda self: len(self.session.missing) <= 2)
    @rule(keep=st.booleans())
    def go_on(self, keep):
        survivors = set(self.session.survivors) - (set(self.session.missing) if self.kind == "A" else set())
        enough = len(survivors) >= self.terms.least
        if self.kind == "B":
            enough = len(self.session.survivors) - len(self.session.missing) >= self.terms.threshold
        try:
            requests = self.session.advance((lambda name: self.uploads[name].vector) if keep else None)
        except RoundAborted as error:
            cascade = self.kind == "A" and self.session.missing and not keep
            assert not enough or cascade
            self.aborted = error.missing
            self.open()
            return
        assert enough
        if requests:
            self.requests, self.stage = requests, (self.stage[0], self.stage[1] + 1)
            self.kind = "A" if b"reveal-pairs" in next(iter(requests.values())) else "B"
            return
        assert self.session.result().tolist() == plain_sum([self.inputs[name] for name in survivors])
        self.open()

    @invariant()
    def nothing_opens_early(self):
        with pytest.raises(RoundAborted):
            self.session.result()


BadNetwork.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBadNetwork = BadNetwork.TestCase


def cascade():
    """n=7, t=5: hospital 0 never uploads, hospital 1 uploads and then fails in step A. (session, states, uploads)."""
    _, session = secagg.open_recovery(WIDE_AGGREGATOR, 1, names(7), MODEL, WORDS)
    states, sent = upload_to(session, WIDE_READY, vectors(names(7), WORDS), arrive=names(7)[1:])
    for name, request in session.advance().items():
        if name != "hospital-1":
            states[name], reply = secagg.reveal(states[name], request)
            session.answer(reply)
    return session, states, sent


def test_an_upload_comes_out_of_the_sum_again_with_the_vector_that_the_caller_kept():
    session, states, sent = cascade()
    asked = []

    def recall(name):
        asked.append(name)
        return sent[name].vector

    while requests := session.advance(recall):
        for name, request in requests.items():
            states[name], reply = secagg.reveal(states[name], request)
            session.answer(reply)
    assert asked == ["hospital-1"]
    assert session.survivors == names(7)[2:]
    inputs = vectors(names(7), WORDS)
    assert session.result().tolist() == plain_sum([inputs[name] for name in session.survivors])


@pytest.mark.parametrize("kept", [None, lambda name: None, lambda name: np.zeros(WORDS, np.uint32),
                                  lambda name: np.zeros(WORDS + 1, np.uint32)])  # fmt: skip
def test_a_cascade_without_the_right_vector_aborts_and_names_the_missing(kept):
    session, _, _ = cascade()
    for _ in range(2):
        with pytest.raises(RoundAborted, match="keep the uploads") as aborted:
            session.advance(kept)
        assert aborted.value.missing == names(7)[:2]


def test_answers_to_step_b_that_come_after_an_abort_still_open_the_sum():
    _, session = secagg.open_recovery(AGGREGATOR, 1, names(5), MODEL, WORDS)
    states, _ = upload_to(session, READY, vectors(names(5), WORDS))
    replies = {name: secagg.reveal(states[name], request)[1] for name, request in session.advance().items()}
    for name in names(3):
        session.answer(replies[name])
    with pytest.raises(RoundAborted) as aborted:
        session.advance()
    assert aborted.value.missing == names(5)[3:] == session.missing
    session.answer(replies["hospital-4"])
    assert not session.advance()
    assert session.result().tolist() == plain_sum(vectors(names(5), WORDS).values())
    assert not session.advance()
    with pytest.raises(RemoteProtocolError, match="nothing was asked for"):
        session.answer(replies["hospital-3"])


def test_a_late_upload_is_refused_because_its_sender_counts_as_dropped():
    _, session = secagg.open_recovery(AGGREGATOR, 1, names(5), MODEL, WORDS)
    _, sent = upload_to(session, READY, vectors(names(5), WORDS), arrive=names(4))
    session.advance()
    session.add(sent["hospital-0"].header, sent["hospital-0"].vector)
    with pytest.raises(RemoteProtocolError, match=r"hospital-4: .*too late"):
        session.add(sent["hospital-4"].header, sent["hospital-4"].vector)
