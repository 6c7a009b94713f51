"""What leaves a hospital is uniform; masks cancel only where everybody saw the same; keys never show.

Every statistical test stands beside a control that breaks the protection and must be noticed.
"""

import copy
import pickle

import key_text
import msgspec
import numpy as np
import pytest
from secagg_parties import (
    MODEL,
    OTHER_MODEL,
    UNIFORM,
    announce,
    byte_chi_square,
    identity,
    make_terms,
    names,
    plain_sum,
    randomness,
    set_up,
    vectors,
)

from fedmodels import secagg
from fedmodels.errors import FedmodelsError, LocalProtocolError, RemoteProtocolError
from fedmodels.secagg import contributor, primitives, storage
from fedmodels.secagg.keystream import add_masks, checksum
from fedmodels.secagg.messages import SessionRequest, decode, encode
from fedmodels.secagg.primitives import Label, Secret, derive
from fedmodels.secagg.terms import session_digest

WORDS = 100_000


def ask(number, contributors):
    return encode(SessionRequest(number, tuple(contributors)))


def masked(state, number, contributors, vector, model=MODEL):
    """(new state, masked vector)."""
    after, sent = secagg.upload(state, ask(number, contributors), model, vector)
    return after, sent.vector


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_a_masked_constant_vector_is_uniform(value):
    states, _ = set_up(make_terms(3))
    for name in names(3):
        _, sent = masked(states[name], 1, names(3), np.full(WORDS, value, np.uint32))
        assert byte_chi_square(sent) < UNIFORM
        assert np.unique(sent).size > WORDS * 0.999


def unmasked(vector, plus, minus, session, sender):
    return checksum(session, sender, vector)


def test_control_uniformity_is_missed_without_the_mask(monkeypatch):
    monkeypatch.setattr(contributor, "mask_in_place", unmasked)
    states, _ = set_up(make_terms(3))
    _, sent = masked(states["hospital-0"], 1, names(3), np.zeros(WORDS, np.uint32))
    assert byte_chi_square(sent) > 100 * UNIFORM


@pytest.mark.parametrize("missing", names(4))
def test_what_arrives_without_one_hospital_stays_uniform(missing):
    states, _ = set_up(make_terms(4, 3, 1))
    sent = [masked(states[n], 1, names(4), np.zeros(WORDS, np.uint32))[1] for n in names(4) if n != missing]
    assert byte_chi_square(np.sum(sent, axis=0, dtype=np.uint32)) < UNIFORM


def test_colluding_hospitals_cannot_open_less_than_all_honest_ones():
    """Hospitals 2 and 3 hand the coordinator all their masks: 0 and 1 still hide each other."""
    states, _ = set_up(make_terms(4, 4, 2))
    _, alone = masked(states["hospital-0"], 1, names(4), np.zeros(WORDS, np.uint32))
    transcript = states["hospital-0"].transcript
    binding = session_digest(transcript, SessionRequest(1, names(4)), MODEL)
    known = [derive(states[n].chains["hospital-0"], Label.MASK, binding) for n in ("hospital-2", "hospital-3")]
    assert byte_chi_square(add_masks(alone, [], known)) < UNIFORM
    both = [*known, derive(states["hospital-1"].chains["hospital-0"], Label.MASK, binding)]
    assert not add_masks(alone, [], both).any()


def sum_of_three(states, lists, models, inputs):
    """What a coordinator makes of three uploads when hospital 3 colludes and removes the masks it knows."""
    total = np.zeros(WORDS, np.uint32)
    for name, members, model in zip(names(3), lists, models, strict=True):
        total += masked(states[name], 1, members, inputs[name], model)[1]
        if "hospital-3" in members:
            binding = contributor.session_digest(states[name].transcript, SessionRequest(1, members), model)
            total = add_masks(total, [], [derive(states["hospital-3"].chains[name], Label.MASK, binding)])
    return total


DIFFERENT = {
    "contributors": ([names(3), names(3), names(4)], [MODEL] * 3),
    "model": ([names(3)] * 3, [MODEL, MODEL, OTHER_MODEL]),
}


@pytest.mark.parametrize(("lists", "models"), DIFFERENT.values(), ids=DIFFERENT)
def test_masks_do_not_cancel_when_one_hospital_is_shown_something_else(lists, models):
    states, _ = set_up(make_terms(4, 3, 1))
    inputs = {name: np.zeros(WORDS, np.uint32) for name in names(3)}
    assert byte_chi_square(sum_of_three(states, lists, models, inputs)) < UNIFORM


@pytest.mark.parametrize(("lists", "models"), DIFFERENT.values(), ids=DIFFERENT)
def test_control_they_would_cancel_if_the_session_digest_ignored_it(monkeypatch, lists, models):
    monkeypatch.setattr(
        contributor, "session_digest", lambda bound, request, model: session_digest(bound, SessionRequest(1, ()), MODEL)
    )
    states, _ = set_up(make_terms(4, 3, 1))
    inputs = vectors(names(3), WORDS)
    assert sum_of_three(states, lists, models, inputs).tolist() == plain_sum(inputs.values())


def test_masks_do_not_cancel_across_runs_studies_or_rosters():
    vector = np.zeros(WORDS, np.uint32)
    one, _ = set_up(make_terms(3, run=b"1" * 16))
    two, _ = set_up(make_terms(3, run=b"2" * 16))  # the same keys and randomness, another run id
    mixed = [masked((two if n == "hospital-2" else one)[n], 1, names(3), vector)[1] for n in names(3)]
    assert byte_chi_square(np.sum(mixed, axis=0, dtype=np.uint32)) < UNIFORM
    same = [masked(one[n], 1, names(3), vector)[1] for n in names(3)]
    assert not np.sum(same, axis=0, dtype=np.uint32).any()


def test_the_same_vector_in_two_sessions_is_masked_with_unrelated_masks():
    states, _ = set_up(make_terms(3))
    vector = vectors(["v"], WORDS)["v"]
    after, first = masked(states["hospital-0"], 1, names(3), vector)
    _, second = masked(after, 2, names(3), vector)
    assert byte_chi_square(first - second) < UNIFORM
    assert byte_chi_square(first ^ second) < UNIFORM
    _, again = masked(states["hospital-0"], 1, names(3), vector)
    assert not (first - again).any()


def test_past_keys_are_not_in_the_new_state_and_no_ratchet_leads_back():
    states, _ = set_up(make_terms(3))
    before = states["hospital-0"]
    after, _ = masked(before, 1, names(3), np.zeros(1, np.uint32))
    binding = session_digest(before.transcript, SessionRequest(1, names(3)), MODEL)
    stored = secagg.dump(after)
    for peer, old in before.chains.items():
        seed = derive(old, Label.MASK, binding)
        assert old.reveal() not in stored
        assert seed.reveal() not in stored
        assert derive(old, Label.RATCHET) == after.chains[peer]
        reached = after.chains[peer]
        for _ in range(100):
            assert derive(reached, Label.MASK, binding) != seed
            assert reached != old
            reached = derive(reached, Label.RATCHET)


def test_the_ephemeral_secret_is_erased_when_set_up_is_finished():
    announced, aggregator = announce(make_terms(3))
    state = announced["hospital-0"]
    assert state.secret.reveal() in secagg.dump(state)
    assert state.secret.reveal() not in secagg.dump(secagg.finish_setup(state, secagg.relay(aggregator)))


def secrets_of(state):
    return [state.secret] if isinstance(state, secagg.Announced) else list(state.chains.values())


def shows(text, secrets):
    return key_text.shows(text, [secret.reveal() for secret in secrets])


def all_states():
    announced, aggregator = announce(make_terms(3))
    relayed = secagg.relay(aggregator)
    return [*announced.values(), *(secagg.finish_setup(state, relayed) for state in announced.values())]


@pytest.mark.parametrize("state", all_states(), ids=lambda state: f"{type(state).__name__} {state.name}")
def test_keys_never_show_in_text_and_are_never_pickled_or_copied(state):
    for text in (repr(state), str(state), f"{state}", repr(vars(state)), repr(secrets_of(state))):
        assert not shows(text, secrets_of(state))
    for value in (state, *secrets_of(state)):
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(LocalProtocolError):
                copying(value)


def test_control_a_key_that_shows_is_noticed():
    secret = Secret(bytes(range(32)))
    for text in (repr(secret.reveal()), secret.reveal().hex(), str(list(secret.reveal()))):
        assert shows(text, [secret])


def test_keys_show_neither_in_errors_nor_in_tracebacks_with_local_variables():
    announced, aggregator = announce(make_terms(3))
    relayed = secagg.relay(aggregator)
    first = announced["hospital-0"]
    ready = secagg.finish_setup(first, relayed)
    low_order = primitives.ed25519_sign(
        identity("hospital-1"), contributor.setup_statement(first.terms, "hospital-1", bytes(32))
    )
    keys = decode(relayed, secagg.messages.SetupKeys).keys
    forged = (keys[0], secagg.messages.SetupKey("hospital-1", bytes(32), low_order), keys[2])
    mistakes = [
        lambda: secagg.finish_setup(first, encode(secagg.messages.SetupKeys(forged))),
        lambda: secagg.finish_setup(first, relayed[:-1]),
        lambda: secagg.finish_setup(ready, relayed),
        lambda: secagg.upload(first, ask(1, names(3)), MODEL, np.zeros(1, np.uint32)),
        lambda: secagg.upload(ready, ask(0, names(3)), MODEL, np.zeros(1, np.uint32)),
        lambda: secagg.upload(ready, ask(1, names(3)), MODEL, np.zeros(1)),
        lambda: secagg.load(secagg.dump(ready)[:-1] + b"!"),
        lambda: secagg.load(stored_with(ready, min_contributors=1)),
        lambda: secagg.load(stored_with(ready, study_digest=b"short")),
    ]
    for mistake in mistakes:
        with pytest.raises(FedmodelsError) as caught:
            mistake()
        assert not shows(key_text.with_locals(caught.value, __file__), secrets_of(first) + secrets_of(ready))


def stored_with(state, **changes):
    """A dump with a right digest and other terms."""
    fields = msgspec.msgpack.decode(secagg.dump(state)[32:])
    fields["terms"].update(changes)
    body = msgspec.msgpack.encode(fields)
    return primitives.digest(Label.STATE, body) + body


def test_control_a_key_in_a_local_variable_of_a_frame_that_an_error_leaves_is_noticed(monkeypatch):
    """An error while the bytes of a stored state are at hand, as `load` itself once raised it."""

    def damaged(_):
        raise LocalProtocolError("damaged")

    ready = all_states()[-1]
    monkeypatch.setattr(storage, "_state_in", damaged)
    with pytest.raises(LocalProtocolError) as caught:
        secagg.load(secagg.dump(ready))
    assert shows(key_text.with_locals(caught.value, __file__), secrets_of(ready))


def test_two_hospitals_with_the_same_ephemeral_key_do_not_agree_on_a_run():
    """A cloned machine draws the same randomness: its twin notices that the key is a copy of its own."""
    terms = make_terms(3)
    states, aggregator = {}, secagg.Aggregator(terms)
    for name, seed in zip(names(3), ("clone", "clone", "other"), strict=True):
        states[name], message = secagg.begin_setup(terms, name, identity(name), randomness(seed))
        aggregator = secagg.collect(aggregator, message)
    with pytest.raises(RemoteProtocolError, match=r"hospital-1: .*a copy of ours"):
        secagg.finish_setup(states["hospital-0"], secagg.relay(aggregator))
