"""Secure aggregation: the coordinator learns the sum of the hospitals' vectors, and nothing about any single one.

This holds when the coordinator lies about who is there, shows hospitals different models, replays or restarts, and
colludes with up to `max_colluding` hospitals. After Bonawitz et al. 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", with the session bound to the model against Pasquini et al. 2022, "Eluding Secure
Aggregation in Federated Learning". There are two kinds of round; `Terms.on_dropout`, pinned by every hospital, says
which one a run has:

`retry`: one exchange. Pairwise masks cancel when every contributor of a session uploads; if one is missing, nothing
opens, and the round is run again without it. No secret is ever revealed.

`recover`: two exchanges, three with a dropout. Pairwise masks and a self mask, which is shared so that any t
contributors can remove it. The sum of those who uploaded opens. Step A (only if somebody dropped out) reveals the pair
seeds of the dropped, step B shares of the self masks of the others; nobody ever reveals both kinds for the same peer.

A run (all functions are pure; whoever calls does the I/O, and persists a hospital's state before it sends the reply):

    hospital:     state, message = begin_setup(terms, name, identity, random)
    coordinator:  aggregator = collect(aggregator, message) for each hospital; keys = relay(aggregator)
    hospital:     state = finish_setup(state, keys)

a `retry` round:

    coordinator:  aggregator, session = open_session(aggregator, r, contributors, model_digest, words)
    hospital:     check_request(state, session.request), then train and encode
    hospital:     state, reply = upload(state, session.request, model_digest, vector); persist; send
    coordinator:  check_sender(reply.header, hospital); session.add(reply.header, reply.vector) for each reply
    coordinator:  total = session.result()

a `recover` round:

    coordinator:  aggregator, session = open_recovery(aggregator, r, contributors, model_digest, words)
    hospital:     check_request(state, session.request), then train and encode
    hospital:     state, reply = upload_recover(state, session.request, model_digest, vector, random); persist; send
    coordinator:  check_sender(reply.header, hospital); session.add(reply.header, reply.vector) for each reply; keep the
                  vectors on the disk
    coordinator:  while requests := session.advance(recall): send each; check_sender(reply, hospital) and
                  session.answer(reply) for each reply
    hospital:     state, reply = reveal(state, request); persist; send
    coordinator:  total = session.result(), the sum over session.survivors

The format, in full. H(label, parts...) is SHA-256 over the protocol "fedmodels/secagg/v1", the label and the parts,
each as 8 bytes big-endian length and content. Names are UTF-8, in ascending order. Integers are 8 bytes big-endian.
|| joins bytes. HKDF and its Expand step give 32 bytes.

    roster      R   = H("roster", name_1, identity_1, name_2, identity_2, ...)
    terms       A   = H("terms", run id, study digest, R)
                      `recover`: H("terms-recover", run id, study digest, R, t)
    signature       = Ed25519(identity, H("setup-key", A, name, X25519 public key))
    transcript  T0  = H("transcript", A, name_1, public key_1, name_2, public key_2, ...)
    chain       k_1 = HKDF-SHA256(X25519(own, peer), salt T0, info H("pair-chain", lower name, higher name))
    ratchet     k_r+1 = HKDF-Expand(k_r, H("chain-ratchet"))
    session     h   = H("session", T0, r, model digest, names of U...)
                      `recover`: H("session-recover", T0, r, model digest, names of U...)
    seed        s   = HKDF-Expand(k_r, H("pair-mask", h))
    mask            = AES-256-CTR keystream of s in chunks of 2^18 bytes, see `keystream`
    upload          = vector + masks of peers with a higher name - masks of those with a lower one, modulo 2^32
                      `recover`: + the mask of the self seed b'
    checksum        = GMAC(key H("upload-checksum", h, sender), nonce of 12 zeros, upload as little-endian words)

`recover` only. q is the order of P-256; scalars are 32 bytes big-endian.

    polynomial      = a_0 = b, a_1, ... a_t-1: 48 random bytes each, big-endian, modulo q
    self seed   b'  = HKDF-Expand(b, H("self-mask", h, sender))
    share of x      = a_0 + a_1 x + ... + a_t-1 x^(t-1) modulo q, x = the holder's place in U, counted from 1
    sealed share    = AES-256-GCM(key HKDF-Expand(k_r, H("share-key", h, dealer, holder)), nonce of 12 zeros,
                      the share, associated data H("share-data", h, dealer, holder)) || tag
    header          = the upload's header and the sealed shares for all others of U
    step A          : h and D (ascending) to each of U \\ D; answered with the seed s of each of D
    step B          : h, D and the shares sealed for this holder by all others of U \\ D; answered with its share of
                      every member of U \\ D, its own in its place, nil for one that does not open

Messages are MessagePack maps with exactly the fields of `messages`, in that order.
"""

from fedmodels.secagg.aggregator import Aggregator, Session, collect, open_session, relay, resume
from fedmodels.secagg.contributor import Upload, begin_setup, check_request, finish_setup, is_repeat, upload
from fedmodels.secagg.encoding import Lattice
from fedmodels.secagg.keystream import Vector
from fedmodels.secagg.messages import SessionRequest, check_sender
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
    "check_sender",
    "collect",
    "dump",
    "finish_setup",
    "is_repeat",
    "load",
    "open_recovery",
    "open_session",
    "relay",
    "resume",
    "reveal",
    "reveal_pairs",
    "reveal_shares",
    "upload",
    "upload_recover",
]
