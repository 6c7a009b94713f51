"""Coverage-guided fuzzing of everything in `fedmodels.secagg` that reads bytes from somebody else.

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

with atheris.instrument_imports(include=["fedmodels.secagg"]):
    from fedmodels import secagg
    from fedmodels.secagg import messages

from secagg_parties import MODEL, announce, names, recover_states, recover_terms, set_up, uploaded, vectors

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


SESSIONS = _sessions()
TARGETS = (decode_anything, load_anything, ask_a_hospital, answer_the_coordinator)


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
    return [bytes([target]) + data for target in range(len(TARGETS)) for data in valid]


def main() -> None:
    for seed in seeds():
        one_input(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
