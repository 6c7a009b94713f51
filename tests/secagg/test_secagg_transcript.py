"""Whole rounds that are frozen in tests/vectors, checked by the package and by the slow reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import secagg_reference as reference
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "secagg_v1.json").read_text())
RUN = VECTORS["run"]


def announced():
    identities = {n: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(k)) for n, k in RUN["identities"].items()}
    roster = {name: key.public_key().public_bytes_raw() for name, key in identities.items()}
    terms = secagg.Terms(
        bytes.fromhex(RUN["run_id"]),
        bytes.fromhex(RUN["study_digest"]),
        roster,
        RUN["min_contributors"],
        RUN["max_colluding"],
    )
    started = {
        name: secagg.begin_setup(terms, name, key, lambda _, name=name: bytes.fromhex(RUN["ephemerals"][name]))
        for name, key in identities.items()
    }
    return terms, started


def ready():
    terms, started = announced()
    aggregator = secagg.Aggregator(terms)
    for _, message in started.values():
        aggregator = secagg.collect(aggregator, message)
    relayed = secagg.relay(aggregator)
    return aggregator, {name: secagg.finish_setup(state, relayed) for name, (state, _) in started.items()}


def test_package_reproduces_the_frozen_set_up():
    _, started = announced()
    assert {name: message.hex() for name, (_, message) in started.items()} == VECTORS["setup"]
    assert secagg.relay(ready()[0]).hex() == VECTORS["relayed"]


def test_package_reproduces_the_frozen_sessions():
    aggregator, states = ready()
    for frozen in VECTORS["sessions"]:
        digest, inputs = bytes.fromhex(frozen["model_digest"]), frozen["vectors"]
        words = len(frozen["sum"])
        aggregator, session = secagg.open_session(aggregator, frozen["session"], tuple(inputs), digest, words)
        assert session.request.hex() == frozen["request"]
        for name, vector in inputs.items():
            states[name], sent = secagg.upload(states[name], session.request, digest, np.array(vector, np.uint32))
            assert sent.header.hex() == frozen["headers"][name]
            assert sent.vector.tolist() == frozen["masked"][name]
            session.add(sent.header, sent.vector)
        assert session.result().tolist() == frozen["sum"]


def test_reference_reproduces_the_frozen_set_up():
    messages, relayed, _, _ = reference.set_up(RUN)
    assert {name: message.hex() for name, message in messages.items()} == VECTORS["setup"]
    assert relayed.hex() == VECTORS["relayed"]


def test_reference_reproduces_the_frozen_sessions():
    _, _, t0, chains = reference.set_up(RUN)
    for frozen in VECTORS["sessions"]:
        for name in frozen["vectors"]:
            header, masked = reference.upload(t0, chains, frozen, name)
            assert (header.hex(), masked) == (frozen["headers"][name], frozen["masked"][name])
        columns = zip(*frozen["masked"].values(), strict=True)
        assert [sum(column) % 2**32 for column in columns] == frozen["sum"]


@pytest.mark.parametrize("case", VECTORS["refused_setup_by_hospital_a"], ids=lambda case: case["reason"])
def test_frozen_wrong_set_ups_are_refused(case):
    _, started = announced()
    with pytest.raises(RemoteProtocolError):
        secagg.finish_setup(started["hospital-a"][0], bytes.fromhex(case["relayed"]))


@pytest.mark.parametrize("case", VECTORS["refused_sessions_by_hospital_a"], ids=lambda case: case["reason"])
def test_frozen_wrong_sessions_are_refused(case):
    state = ready()[1]["hospital-a"]
    with pytest.raises(RemoteProtocolError):
        secagg.upload(state, bytes.fromhex(case["request"]), bytes(32), np.zeros(3, np.uint32))
