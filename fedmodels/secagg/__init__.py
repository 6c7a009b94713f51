"""Secure aggregation: the coordinator learns the sum of the hospitals' vectors, and nothing about any single one.

This holds when the coordinator lies about who is there, shows hospitals different models, replays or restarts, and
colludes with up to `max_colluding` hospitals. A round is one exchange: pairwise masks cancel when every contributor
of a session uploads; if one is missing, nothing opens, and the round is run again without it. No secret is ever
revealed. After Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", with
the session bound to the model against Pasquini et al. 2022, "Eluding Secure Aggregation in Federated Learning".

A run (all functions are pure; whoever calls does the I/O):

    hospital:     state, message = begin_setup(terms, name, identity, random)
    coordinator:  aggregator = collect(aggregator, message) for each hospital; keys = relay(aggregator)
    hospital:     state = finish_setup(state, keys)
    coordinator:  aggregator, session = open_session(aggregator, r, contributors, model_digest, words)
    hospital:     check_request(state, session.request), then train and encode
    hospital:     state, reply = upload(state, session.request, model_digest, vector); persist; send
    coordinator:  session.add(reply.header, reply.vector) for each reply; total = session.result()

The format, in full. H(label, parts...) is SHA-256 over the protocol "fedmodels/secagg/v1", the label and the parts,
each as 8 bytes big-endian length and content. Names are UTF-8, in ascending order. || joins bytes.

    roster      R   = H("roster", name_1, identity_1, name_2, identity_2, ...)
    terms       A   = H("terms", run id, study digest, R)
    signature       = Ed25519(identity, H("setup-key", A, name, X25519 public key))
    transcript  T0  = H("transcript", A, name_1, public key_1, name_2, public key_2, ...)
    chain       k_1 = HKDF-SHA256(X25519(own, peer), salt T0, info H("pair-chain", lower name, higher name))
    ratchet     k_r+1 = HKDF-Expand(k_r, H("chain-ratchet"))
    session     h   = H("session", T0, r as 8 bytes big-endian, model digest, names of U...)
    seed        s   = HKDF-Expand(k_r, H("pair-mask", h))
    mask            = AES-256-CTR keystream of s in chunks of 2^18 bytes, see `keystream`
    upload          = vector + masks of peers with a higher name - masks of those with a lower one, modulo 2^32
    checksum        = GMAC(key H("upload-checksum", h, sender), nonce of 12 zeros, upload as little-endian words)

Messages are MessagePack maps, see `messages`.
"""

from fedmodels.secagg.aggregator import Aggregator, Session, collect, open_session, relay
from fedmodels.secagg.contributor import Upload, begin_setup, check_request, finish_setup, is_repeat, upload
from fedmodels.secagg.encoding import Lattice
from fedmodels.secagg.keystream import Vector
from fedmodels.secagg.messages import SessionRequest
from fedmodels.secagg.primitives import Randomness
from fedmodels.secagg.recovery import reveal, reveal_pairs, reveal_shares, upload_recover
from fedmodels.secagg.states import Announced, PairsRevealed, Ready, SetUp, State, Unmasked, Uploaded
from fedmodels.secagg.storage import dump, load
from fedmodels.secagg.terms import Terms
from fedmodels.secagg.unmasking import Recall, RecoverSession, open_recovery

__all__ = [
    "Aggregator",
    "Announced",
    "Lattice",
    "PairsRevealed",
    "Randomness",
    "Ready",
    "Recall",
    "RecoverSession",
    "Session",
    "SessionRequest",
    "SetUp",
    "State",
    "Terms",
    "Unmasked",
    "Upload",
    "Uploaded",
    "Vector",
    "begin_setup",
    "check_request",
    "collect",
    "dump",
    "finish_setup",
    "is_repeat",
    "load",
    "open_recovery",
    "open_session",
    "relay",
    "reveal",
    "reveal_pairs",
    "reveal_shares",
    "upload",
    "upload_recover",
]
