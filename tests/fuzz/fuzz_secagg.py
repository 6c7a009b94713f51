"""Coverage-guided fuzzing of everything in `fedmodels.secagg` and `fedmodels.wire` that reads bytes from somebody else.

    python tests/fuzz/fuzz_secagg.py -max_total_time=5            a bounded run, as the tests do
    python tests/fuzz/fuzz_secagg.py CORPUS -max_total_time=36000 -workers=4 -jobs=4     a long one, over night

CORPUS is a folder that keeps what was found to reach new code; inputs that fail are written to `crash-*` in the
current folder. Needs atheris (`pip install atheris`), which is not among the dependencies. What must hold: nothing is
raised but the named errors of `fedmodels.errors`; an accepted message is its own only encoding; nothing changes.
"""

import contextlib
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "secagg"))

with atheris.instrument_imports(include=["fedmodels.secagg", "fedmodels.wire", "fedmodels.canonical"]):
    from fedmodels import secagg, wire
    from fedmodels.secagg import messages

from secagg_parties import (
    MODEL,
    announce,
    make_terms,
    names,
    recover_states,
    recover_terms,
    set_up,
    uploaded,
    vectors,
)

from fedmodels.errors import ProtocolError

TYPES = [
    type_
    for type_ in vars(messages).values()
    if isinstance(type_, type) and issubclass(type_, messages.Message) and type_ is not messages.Message
]
STATES = recover_states()[0]
DUMPS = [secagg.dump(state) for state in STATES]
ANNOUNCED, EMPTY = announce(recover_terms(5, 4, 1))[0]["hospital-0"], secagg.Aggregator(recover_terms(5, 4, 1))
VECTOR = vectors(["v"], 3)["v"]
_, AGGREGATOR = set_up(recover_terms(5, 4, 1))
RETRY_STATES, RETRY_AGGREGATOR = set_up(make_terms(3))
RETRY, RETRY_DUMP = RETRY_STATES["hospital-0"], secagg.dump(RETRY_STATES["hospital-0"])
RETRY_ANNOUNCED = announce(make_terms(3))[0]["hospital-0"]


def decode_anything(data: bytes) -> None:
    for type_ in TYPES:
        with contextlib.suppress(ProtocolError):
            if messages.encode(messages.decode(data, type_)) != data:
                raise AssertionError(type_)


def load_anything(data: bytes) -> None:
    """Also with the right digest, which is no secret."""
    for dump in (data, secagg.primitives.digest(secagg.primitives.Label.STATE, data) + data):
        with contextlib.suppress(ProtocolError):
            if secagg.dump(secagg.load(dump)) != dump:
                raise AssertionError("dump")


def ask_a_hospital(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        secagg.finish_setup(ANNOUNCED, data)
    for state, before in zip(STATES, DUMPS, strict=True):
        with contextlib.suppress(ProtocolError):
            secagg.reveal(state, data)
        if not isinstance(state, secagg.Announced):
            with contextlib.suppress(ProtocolError):
                secagg.check_request(state, data)
        if secagg.dump(state) != before:
            raise AssertionError("state")


def answer_the_coordinator(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        secagg.collect(EMPTY, data)
    _, session = secagg.open_recovery(AGGREGATOR, 1, names(5), MODEL, 3)
    with contextlib.suppress(ProtocolError):
        session.add(data, VECTOR)
    for asked in SESSIONS:
        before = asked.missing
        with contextlib.suppress(ProtocolError):
            asked.answer(data)
            if asked.missing == before:
                raise AssertionError("answer")


def _sessions() -> list[secagg.RecoverSession]:
    in_step_a, in_step_b = uploaded(arrive=names(4))[0], uploaded()[0]
    in_step_a.advance()
    in_step_b.advance()
    return [in_step_a, in_step_b]


def ask_a_hospital_to_retry(data: bytes) -> None:
    """The requests of a `retry` run, at a hospital that is set up for one."""
    with contextlib.suppress(ProtocolError):
        secagg.finish_setup(RETRY_ANNOUNCED, data)
    with contextlib.suppress(ProtocolError):
        secagg.check_request(RETRY, data)
    with contextlib.suppress(ProtocolError):
        secagg.is_repeat(RETRY, data, MODEL)
    with contextlib.suppress(ProtocolError):
        secagg.upload(RETRY, data, MODEL, VECTOR)
    with contextlib.suppress(ProtocolError):
        secagg.reveal(RETRY, data)  # such a run has no step in which secrets are revealed
        raise AssertionError("reveal")
    if secagg.dump(RETRY) != RETRY_DUMP:
        raise AssertionError("state")


def upload_to_retry(data: bytes) -> None:
    """A `retry` session takes no header but one that is masked for it, and is not changed by another."""
    _, session = secagg.open_session(RETRY_AGGREGATOR, 1, names(3), MODEL, 3)
    before = session.missing
    try:
        session.add(data, RETRY_VECTOR)
    except ProtocolError:
        if session.missing != before:
            raise AssertionError("upload") from None


def read_the_wire(data: bytes) -> None:
    """What crosses the network around the messages of secure aggregation, at a hospital and at the coordinator."""
    for decode in (wire.decode_request, wire.decode_reply):
        with contextlib.suppress(ProtocolError):
            if wire.encode(decode(data)) != data:
                raise AssertionError("wire")
    with contextlib.suppress(ProtocolError):
        reply, rest = wire.split_reply(data)
        if wire.encode(reply) + rest != data:
            raise AssertionError("split")


SESSIONS = _sessions()
_, RETRY_SESSION = secagg.open_session(RETRY_AGGREGATOR, 1, names(3), MODEL, 3)
_, RETRY_UPLOAD = secagg.upload(RETRY, RETRY_SESSION.request, MODEL, VECTOR)
RETRY_VECTOR = RETRY_UPLOAD.vector
TARGETS = (
    decode_anything, load_anything, ask_a_hospital, answer_the_coordinator,
    ask_a_hospital_to_retry, upload_to_retry, read_the_wire,
)  # fmt: skip


def one_input(data: bytes) -> None:
    """The first byte chooses what reads the rest."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def seeds() -> list[bytes]:
    """Valid messages and states for every target, so that the search starts where decoding succeeds."""
    _, pairs, shares, _ = recover_states()
    session, states, sent, _ = uploaded()
    answers = [secagg.reveal(states["hospital-0"], request)[1] for request in (pairs, shares)]
    valid = [pairs, shares, session.request, sent["hospital-0"].header, secagg.relay(AGGREGATOR), *answers]
    valid += [ANNOUNCED.message, *(dump[32:] for dump in DUMPS)]
    valid += [RETRY_SESSION.request, RETRY_UPLOAD.header, secagg.relay(RETRY_AGGREGATOR), RETRY_ANNOUNCED.message]
    run, digest, heads = bytes(16), bytes(32), {"hospital-0": bytes(96)}
    valid += [
        wire.encode(wire.SetupRequest(run, digest, digest, heads)),
        wire.encode(wire.ContributeRequest(run, "train", 1, RETRY_SESSION.request, b"", heads)),
        wire.encode(wire.UnmaskRequest(run, pairs)),
        wire.encode(wire.PresenceRequest(run, bytes(16))),
        wire.encode(wire.SetupReply("hospital-0", ANNOUNCED.message, bytes(96))),
        wire.encode(wire.ContributeReply(RETRY_UPLOAD.header, bytes(96))),
        wire.encode(wire.UnmaskReply(answers[0])),
        wire.encode(wire.PresenceReply("hospital-0", bytes(64))),
        wire.encode(wire.Refusal("busy")),
    ]
    return [bytes([target]) + data for target in range(len(TARGETS)) for data in valid]


def main() -> None:
    for seed in seeds():
        one_input(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
