"""This project's `retry` round, through the same functions as in a run. A dropout costs a second round.

The second round also costs fresh training, which is not counted here. Its own file persists the state between mask and
upload; that is counted by `fedmodels bench round`.
"""

import secrets
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmodels import secagg
from fedmodels.errors import RoundAborted
from simulations.benchmarks.aggregation.contest import Case, Clock, Contender, Inputs, Round, RunRound
from simulations.benchmarks.aggregation.memory import receive, send

MODEL_DIGEST = bytes(32)
BOUND = 0.25
MAX_COLLUDING = 1


@dataclass(frozen=True)
class Parties:
    """Everybody after set-up. Protocol states are immutable, so every repetition starts from these."""

    terms: secagg.Terms
    ready: dict[str, secagg.Ready]
    aggregator: secagg.Aggregator
    messages: tuple[bytes, ...]


def set_up(contributors: int, threshold: int | None = None) -> Parties:
    """A run of `contributors` hospitals with fresh keys. threshold: of a `recover` run."""
    identities = {f"hospital-{i:03d}": Ed25519PrivateKey.generate() for i in range(contributors)}
    roster = {name: identity.public_key().public_bytes_raw() for name, identity in identities.items()}
    terms = secagg.Terms(
        bytes(16),
        bytes(32),
        roster,
        min_contributors=3,
        max_colluding=MAX_COLLUDING,
        on_dropout="retry" if threshold is None else "recover",
        threshold=threshold,
    )
    announced = {
        name: secagg.begin_setup(terms, name, identity, secrets.token_bytes) for name, identity in identities.items()
    }
    messages = tuple(message for _, message in announced.values())
    aggregator = _collect(terms, messages)
    relayed = secagg.relay(aggregator)
    ready = {name: secagg.finish_setup(state, relayed) for name, (state, _) in announced.items()}
    return Parties(terms, ready, aggregator, messages)


def _collect(terms: secagg.Terms, messages: tuple[bytes, ...]) -> secagg.Aggregator:
    aggregator = secagg.Aggregator(terms)
    for message in messages:
        aggregator = secagg.collect(aggregator, message)
    return aggregator


def _prepare(case: Case, inputs: Inputs) -> RunRound:
    parties, lattice = set_up(case.contributors), secagg.Lattice(BOUND, case.contributors)
    everybody = tuple(parties.ready)
    uploading = tuple(everybody[i] for i in case.uploading)

    def run(clock: Clock) -> Round:
        states, aggregator, bytes_up = dict(parties.ready), parties.aggregator, 0
        for number, asked in enumerate((everybody, uploading) if case.dropout else (everybody,), 1):
            with clock.phase("encode"):
                lattice.encode(inputs.update)
            with clock.phase("add"):
                aggregator, session = secagg.open_session(aggregator, number, asked, MODEL_DIGEST, case.words)
            for i, name in enumerate(uploading):
                vector = inputs.integers(i)
                with clock.phase("mask", timed=i == 0):
                    states[name], upload = secagg.upload(
                        states[name], session.request, MODEL_DIGEST, vector, in_place=True
                    )
                with clock.phase("add"):
                    session.add(upload.header, upload.vector)
            bytes_up += len(upload.header) + upload.vector.nbytes
            try:
                with clock.phase("unmask"):
                    total = session.result()
            except RoundAborted:
                continue
        return Round(total, bytes_up, exchanges=number)

    return run


def _masks(case: Case) -> int:
    return case.contributors - 1 + (case.contributors - 2 if case.dropout else 0)


CONTENDER = Contender("fedmodels, retry", _prepare, _masks)


def aggregate(connection: Connection, words: int) -> None:
    """The aggregator of one round, with everything from the hospitals coming over the connection."""
    terms = secagg.Terms(*connection.recv())
    aggregator = _collect(terms, connection.recv())
    _, session = secagg.open_session(aggregator, 1, tuple(terms.roster), MODEL_DIGEST, words)
    connection.send_bytes(session.request)
    for _ in terms.roster:
        header = connection.recv_bytes()
        session.add(header, receive(connection, words))
    send(connection, session.result())


def contribute(connection: Connection, case: Case, inputs: Inputs) -> secagg.Vector:
    """The other end of `aggregate`: all hospitals. Returns the sum that the aggregator found."""
    parties = set_up(case.contributors)
    terms = parties.terms
    connection.send((terms.run_id, terms.study_digest, dict(terms.roster), terms.min_contributors, terms.max_colluding))
    connection.send(parties.messages)
    request = connection.recv_bytes()
    for i, state in enumerate(parties.ready.values()):
        _, upload = secagg.upload(state, request, MODEL_DIGEST, inputs.integers(i))
        connection.send_bytes(upload.header)
        send(connection, upload.vector)
    total: secagg.Vector = receive(connection, case.words)
    return np.ascontiguousarray(total)
