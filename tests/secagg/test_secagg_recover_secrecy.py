"""What leaves a hospital in a `recover` round is uniform until it is unmasked; no secret shows anywhere."""

import copy
import pickle
import traceback

import msgspec
import numpy as np
import pytest
from secagg_adversary import Knowledge
from secagg_parties import (
    MODEL,
    OTHER_MODEL,
    UNIFORM,
    byte_chi_square,
    exchange,
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
from test_secagg_secrecy import shows

from fedmodels import secagg
from fedmodels.errors import FedmodelsError, LocalProtocolError, RoundAborted
from fedmodels.secagg import recovery
from fedmodels.secagg.keystream import add_masks, checksum
from fedmodels.secagg.messages import Pairs, RecoverRequest, RevealShares, Shares, decode, encode
from fedmodels.secagg.primitives import Secret

WORDS = 100_000


def masked(state, vector, members=None, model=MODEL, seed=0):
    request = encode(RecoverRequest(1, members or names(3)))
    return secagg.upload_recover(state, request, model, vector, randomness(seed))


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_a_masked_constant_vector_is_uniform(value):
    states, _ = set_up(recover_terms(3, 3))
    for name in names(3):
        _, sent = masked(states[name], np.full(WORDS, value, np.uint32))
        assert byte_chi_square(sent.vector) < UNIFORM
        assert np.unique(sent.vector).size > WORDS * 0.999


def unmasked(vector, plus, minus, session, sender):
    return checksum(session, sender, vector)


def test_control_uniformity_is_missed_without_the_mask(monkeypatch):
    monkeypatch.setattr(recovery, "mask_in_place", unmasked)
    states, _ = set_up(recover_terms(3, 3))
    assert byte_chi_square(masked(states["hospital-0"], np.zeros(WORDS, np.uint32))[1].vector) > 100 * UNIFORM


def test_the_sum_of_all_uploads_is_uniform_before_unmasking_unlike_in_retry():
    states, _ = set_up(recover_terms(3, 3))
    sent = [masked(states[n], np.zeros(WORDS, np.uint32), seed=n)[1].vector for n in names(3)]
    assert byte_chi_square(np.sum(sent, axis=0, dtype=np.uint32)) < UNIFORM


def test_an_upload_that_comes_too_late_stays_uniform_although_all_its_pair_seeds_are_out():
    """Hospital 4 counts as dropped; the coordinator then holds its vector, and every mask but its own."""
    session, states, sent, _ = zeros = uploaded_zeros()
    for name in names(4):
        session.add(sent[name].header, sent[name].vector)
    replies = {name: secagg.reveal(states[name], request)[1] for name, request in session.advance().items()}
    left = sent["hospital-4"].vector
    for name, reply in replies.items():
        (seed,) = decode(reply, Pairs).seeds
        left = add_masks(left, [seed] if name < "hospital-4" else [], [seed] if name > "hospital-4" else [])
    assert byte_chi_square(left) < UNIFORM
    own = zeros[3]
    assert not add_masks(left, [], [own]).any()  # with its self mask, there it is


def uploaded_zeros():
    states, aggregator = set_up(recover_terms(5, 4, 1))
    _, session = secagg.open_recovery(aggregator, 1, names(5), MODEL, WORDS)
    inputs = dict.fromkeys(names(5), np.zeros(WORDS, np.uint32))
    states, sent = upload_to(session, states, inputs, arrive=())
    known = Knowledge(recover_terms(5, 4, 1), {})
    for name in names(5):
        h = known.upload(session.request, MODEL, sent[name])
    shares = [secagg.reveal_shares(states[n], known.share_request(h, n, ()))[1] for n in names(4)]
    for reply in shares:
        known.reply(reply)
    places = {x: [share] for x, share in known.shares[h]["hospital-4"].items()}
    (secret,) = secagg.shamir.combine(places, 4).secrets
    return session, states, sent, recovery.self_mask(secret, h, "hospital-4")


@pytest.mark.parametrize("shown", ["list", "model"])
def test_nothing_opens_when_one_hospital_is_shown_something_else(shown):
    states, aggregator = set_up(recover_terms(4, 3))
    _, session = secagg.open_recovery(aggregator, 1, names(4), MODEL, 8)
    inputs = vectors(names(4), 8)
    states, _ = upload_to(session, states, inputs, arrive=names(3))
    other = {"model": {"model": OTHER_MODEL}, "list": {"members": names(4)[1:]}}[shown]
    odd = set_up(recover_terms(4, 3))[0]["hospital-3"]
    _, odd_sent = masked(odd, inputs["hospital-3"], **{"members": names(4), **other})
    with pytest.raises(FedmodelsError, match="another model, list"):
        session.add(odd_sent.header, odd_sent.vector)
    states = exchange(session, states, session.advance(), arrive=names(3))
    exchange(session, states, session.advance())
    assert not session.advance()
    total = session.result()
    assert (total - np.sum([inputs[n] for n in names(3)], axis=0, dtype=np.uint32) == 0).all()


def test_one_vector_in_two_sessions_and_two_self_masks_in_one_are_unrelated():
    states, _ = set_up(recover_terms(3, 3))
    vector = vectors(["v"], WORDS)["v"]
    _, first = masked(states["hospital-0"], vector, seed=1)
    _, second = masked(states["hospital-0"], vector, seed=2)  # a crash before the state was kept: nothing was sent
    request = encode(RecoverRequest(2, names(3)))
    _, third = secagg.upload_recover(states["hospital-0"], request, MODEL, vector, randomness(1))
    for one, other in ((first, second), (first, third)):
        assert byte_chi_square(one.vector - other.vector) < UNIFORM


def secrets_of(value):
    """Every `Secret` anywhere inside."""
    if isinstance(value, Secret):
        return [value]
    if isinstance(value, dict) or hasattr(value, "items"):
        return [secret for item in value.values() for secret in secrets_of(item)]
    if isinstance(value, tuple):
        return [secret for item in value for secret in secrets_of(item)]
    fields = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", ())
    return [secret for field in fields for secret in secrets_of(getattr(value, field))]


@pytest.mark.parametrize("state", recover_states()[0], ids=lambda state: type(state).__name__)
def test_keys_and_shares_never_show_in_text_and_are_never_pickled_or_copied(state):
    secrets = secrets_of(state)
    assert secrets
    for text in (repr(state), str(state), f"{state}", repr(vars(state)), repr(secrets)):
        assert not shows(text, secrets)
    for value in (state, *secrets):
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(LocalProtocolError):
                copying(value)


def test_answers_show_no_secret_when_they_are_printed():
    found, pairs_request, share_request, _ = recover_states()
    for request, type_ in ((pairs_request, Pairs), (share_request, Shares)):
        answer = decode(secagg.reveal(found[2], request)[1], type_)
        assert secrets_of(answer)
        assert not shows(repr(answer), secrets_of(answer))
        with pytest.raises(LocalProtocolError):
            pickle.dumps(answer)


def test_keys_show_neither_in_errors_nor_in_tracebacks_with_local_variables():
    found, pairs_request, share_request, after_dropout = recover_states()
    _, ready, state, revealed, unmasked = found
    secrets = [secret for one in found for secret in secrets_of(one)]
    session, states, _, _ = uploaded()
    half, requests = uploaded()[0], session.advance()
    half.advance()
    for name in names(3):
        half.answer(secagg.reveal_shares(states[name], requests[name])[1])
    retry, _ = set_up(make_terms(5, 3, 1))
    zeros = np.zeros(3, np.uint32)
    asked = decode(share_request, RevealShares)
    nothing_opens = encode(msgspec.structs.replace(asked, shares=(bytes(48),) * len(asked.shares)))
    mistakes = [
        lambda: secagg.reveal_pairs(ready, pairs_request),
        lambda: secagg.reveal_pairs(unmasked, pairs_request),
        lambda: secagg.reveal_pairs(state, share_request),
        lambda: secagg.reveal_shares(state, after_dropout),
        lambda: secagg.reveal_shares(revealed, share_request),
        lambda: secagg.reveal_shares(unmasked, after_dropout),
        lambda: secagg.reveal_shares(state, share_request[:-1]),
        lambda: secagg.reveal_shares(state, nothing_opens),
        lambda: secagg.upload_recover(state, session.request, MODEL, zeros, randomness(1)),
        lambda: secagg.upload_recover(ready, session.request, MODEL, np.zeros(3), randomness(1)),
        lambda: secagg.upload_recover(ready, session.request, MODEL, zeros, lambda n: b""),
        lambda: secagg.upload_recover(retry["hospital-0"], session.request, MODEL, zeros, randomness(1)),
        half.advance,
        half.result,
    ]
    for mistake in mistakes:
        with pytest.raises((FedmodelsError, RoundAborted)) as caught:
            mistake()
        trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in trace.stack if "fedmodels" in frame.filename]
        text = "\n".join([str(caught.value), repr(caught.value), *(str(frame.locals) for frame in frames)])
        assert not shows(text, secrets)
