"""Whole `recover` rounds that are frozen in tests/vectors, checked by the package and by the slow reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import secagg_reference as reference
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from secagg_reference_recover import Round

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "secagg_recover_v1.json").read_text())
ROUNDS = pytest.mark.parametrize("case", VECTORS["rounds"], ids=lambda case: case["name"])


def ready(run):
    identities = {n: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(k)) for n, k in run["identities"].items()}
    roster = {name: key.public_key().public_bytes_raw() for name, key in identities.items()}
    terms = secagg.Terms(
        bytes.fromhex(run["run_id"]),
        bytes.fromhex(run["study_digest"]),
        roster,
        run["min_contributors"],
        run["max_colluding"],
        "recover",
        run["threshold"],
    )
    started, aggregator = {}, secagg.Aggregator(terms)
    for name, key in identities.items():
        started[name], message = secagg.begin_setup(
            terms, name, key, lambda _, name=name: bytes.fromhex(run["ephemerals"][name])
        )
        aggregator = secagg.collect(aggregator, message)
    relayed = secagg.relay(aggregator)
    return aggregator, {name: secagg.finish_setup(state, relayed) for name, state in started.items()}


def stream(data):
    """Hands out the bytes in order, and no more than there are."""
    rest = [data]

    def random(n):
        taken, rest[0] = rest[0][:n], rest[0][n:]
        return taken

    return random


def uploaded(case):
    """(session, states, {name: Upload}), before anything arrives."""
    aggregator, states = ready(case["run"])
    frozen, digest = case["session"], bytes.fromhex(case["session"]["model_digest"])
    _, session = secagg.open_recovery(aggregator, frozen["session"], tuple(frozen["vectors"]), digest, 5)
    sent = {}
    for name, vector in frozen["vectors"].items():
        random = stream(bytes.fromhex(frozen["randomness"][name]))
        states[name], sent[name] = secagg.upload_recover(
            states[name], session.request, digest, np.array(vector, np.uint32), random
        )
    return session, states, sent


@ROUNDS
def test_package_reproduces_the_frozen_round(case):
    session, states, sent = uploaded(case)
    assert session.request.hex() == case["request"]
    assert {name: upload.header.hex() for name, upload in sent.items()} == case["headers"]
    assert {name: upload.vector.tolist() for name, upload in sent.items()} == case["masked"]
    for name in case["arrived"]:
        session.add(sent[name].header, sent[name].vector)
    for step in case["steps"]:
        requests = session.advance(lambda name: sent[name].vector)
        assert {name: request.hex() for name, request in requests.items()} == step["requests"]
        for name in step["answered"]:
            states[name], reply = secagg.reveal(states[name], requests[name])
            assert reply.hex() == step["replies"][name]
            session.answer(reply)
    assert not session.advance()
    assert session.result().tolist() == case["sum"]
    assert list(session.dropped) == case["steps"][-1]["dropped"]


@ROUNDS
def test_reference_reproduces_the_frozen_round(case):
    _, _, t0, chains = reference.set_up(case["run"])
    round_ = Round(t0, chains, case["session"], case["run"]["threshold"])
    assert round_.request().hex() == case["request"]
    masked = {}
    for name in case["session"]["vectors"]:
        header, masked[name] = round_.upload(name)
        assert (header.hex(), masked[name]) == (case["headers"][name], case["masked"][name])
    for step in case["steps"]:
        if step["step"] == "A":
            request, replies = round_.step_a(step["dropped"])
            requests = dict.fromkeys(replies, request)
        else:
            requests, replies = round_.step_b(step["dropped"])
        assert {name: request.hex() for name, request in requests.items()} == step["requests"]
        assert {name: replies[name].hex() for name in step["answered"]} == step["replies"]
    dropped, holders = case["steps"][-1]["dropped"], case["steps"][-1]["answered"]
    assert round_.open(masked, dropped, holders) == case["sum"]
    alive = [vector for name, vector in case["session"]["vectors"].items() if name not in dropped]
    assert [sum(column) % 2**32 for column in zip(*alive, strict=True)] == case["sum"]


@ROUNDS
def test_frozen_wrong_requests_are_refused_after_the_upload(case):
    _, states, _ = uploaded(case)
    state = states[case["refused"]["by"]]
    for wrong in case["refused"]["requests"]:
        with pytest.raises(RemoteProtocolError):
            secagg.reveal(state, bytes.fromhex(wrong["request"]))


@ROUNDS
def test_frozen_requests_with_wrong_shares_get_the_others_alone(case):
    _, states, _ = uploaded(case)
    _, _, t0, chains = reference.set_up(case["run"])
    round_, by = Round(t0, chains, case["session"], case["run"]["threshold"]), case["refused"]["by"]
    for wrong in case["answered in part"]:
        reply = secagg.reveal(states[by], bytes.fromhex(wrong["request"]))[1]
        assert reply.hex() == wrong["reply"]
        assert reply == round_.step_b_reply(by, [], [bytes.fromhex(share) for share in wrong["shares"]])
