"""Hospitals and a coordinator for the tests of secure aggregation, with reproducible randomness."""

import hashlib
import itertools

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmodels import secagg

MODEL = hashlib.sha256(b"global model").digest()
OTHER_MODEL = hashlib.sha256(b"another model").digest()


def randomness(seed):
    """A reproducible stand-in for `secrets.token_bytes`."""
    count = itertools.count()
    return lambda n: hashlib.shake_256(f"{seed}/{next(count)}".encode()).digest(n)


def names(n):
    return tuple(f"hospital-{i}" for i in range(n))


def identity(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def public(name):
    return identity(name).public_key().public_bytes_raw()


def make_terms(n, least=2, colluding=0, run=b"r" * 16):
    return secagg.Terms(run, b"s" * 32, {name: public(name) for name in names(n)}, least, colluding)


def recover_terms(n, threshold, colluding=0, run=b"r" * 16):
    """Terms of `recover` rounds, with the smallest min_contributors that `retry` would allow."""
    roster = {name: public(name) for name in names(n)}
    return secagg.Terms(run, b"s" * 32, roster, colluding + 2, colluding, "recover", threshold)


def announce(terms, seed=0):
    """({name: Announced}, Aggregator with every key)."""
    states, aggregator = {}, secagg.Aggregator(terms)
    for name in terms.roster:
        states[name], message = secagg.begin_setup(terms, name, identity(name), randomness(f"{seed}/{name}"))
        aggregator = secagg.collect(aggregator, message)
    return states, aggregator


def set_up(terms, seed=0):
    """({name: Ready}, Aggregator)."""
    states, aggregator = announce(terms, seed)
    relayed = secagg.relay(aggregator)
    return {name: secagg.finish_setup(state, relayed) for name, state in states.items()}, aggregator


def vectors(members, words, seed=0):
    generator = np.random.default_rng(seed)
    return {name: generator.integers(0, 1 << 32, words, dtype=np.uint32) for name in members}


def plain_sum(arrays):
    """The sum modulo 2^32, in Python integers."""
    return [sum(column) % 2**32 for column in zip(*(array.tolist() for array in arrays), strict=True)]


def byte_chi_square(vector):
    """Pearson's statistic of the bytes against the uniform distribution: 255 degrees of freedom."""
    counts = np.bincount(np.ascontiguousarray(vector).view(np.uint8), minlength=256)
    expected = 4 * vector.size / 256
    return float(((counts - expected) ** 2).sum() / expected)


UNIFORM = 400.0
"""Above this a chi-square of 255 degrees of freedom has a probability below 1e-7."""


def upload_to(session, states, inputs, *, arrive=None, model=MODEL, seed=0):
    """All of `inputs` are uploaded to a `recover` session, those in `arrive` (None: all) arrive. ({name: state},
    {name: Upload})."""
    after, sent = {}, {}
    for name, vector in inputs.items():
        random = randomness(f"{seed}/self/{name}")
        after[name], sent[name] = secagg.upload_recover(states[name], session.request, model, vector, random)
        if arrive is None or name in arrive:
            session.add(sent[name].header, sent[name].vector)
    return {**states, **after}, sent


def exchange(session, states, requests, *, arrive=None):
    """One exchange of unmasking: hospitals in `arrive` (None: all) answer. The states after it."""
    states = dict(states)
    for name, request in requests.items():
        if arrive is None or name in arrive:
            states[name], reply = secagg.reveal(states[name], request)
            session.answer(reply)
    return states


def unmask(session, states, recall=None):
    """Everybody who is asked answers: (states, sum)."""
    while requests := session.advance(recall):
        states = exchange(session, states, requests)
    return states, session.result()


def uploaded(n=5, threshold=4, colluding=1, arrive=None):
    states, aggregator = set_up(recover_terms(n, threshold, colluding))
    _, session = secagg.open_recovery(aggregator, 1, names(n), MODEL, 3)
    inputs = vectors(names(n), 3)
    return session, *upload_to(session, states, inputs, arrive=arrive), inputs


def recover_states():
    """A state of every kind of one hospital in a `recover` run, and requests that fit it: step A, step B without and
    with the dropout."""
    session, states, _, _ = uploaded()
    share_request = session.advance()["hospital-0"]
    unmasked, _ = secagg.reveal_shares(states["hospital-0"], share_request)
    other, _, _, _ = uploaded(arrive=names(4))
    pairs_request = other.advance()["hospital-0"]
    revealed, _ = secagg.reveal_pairs(states["hospital-0"], pairs_request)
    everyone = {name: secagg.reveal_pairs(states[name], pairs_request)[1] for name in names(4)}
    for reply in everyone.values():
        other.answer(reply)
    announced, _ = announce(recover_terms(5, 4, 1))
    ready, _ = set_up(recover_terms(5, 4, 1))
    found = [announced["hospital-0"], ready["hospital-0"], states["hospital-0"], revealed, unmasked]
    return found, pairs_request, share_request, other.advance()["hospital-0"]
