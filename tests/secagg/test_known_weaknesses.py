"""Weaknesses of secure aggregation in existing frameworks; each is a regression test here, named after it.

The list is at the end of the protocol's design page.
"""

import inspect
import itertools

import msgspec
import numpy as np
import pytest
from secagg_parties import (
    MODEL,
    UNIFORM,
    announce,
    byte_chi_square,
    identity,
    make_terms,
    names,
    plain_sum,
    randomness,
    recover_terms,
    set_up,
    unmask,
    upload_to,
    uploaded,
    vectors,
)

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg import messages
from fedmodels.secagg.keystream import add_masks
from fedmodels.secagg.messages import RecoverRequest, RevealPairs, RevealShares, SetupKeys, decode, encode
from fedmodels.secagg.primitives import Secret


def test_mask_seeds_folded_to_28_effective_bits():
    """A seed has 256 bits, and every one of them counts: one bit flipped gives an unrelated mask."""
    seed = uploaded()[1]["hospital-0"].round.pair_seeds["hospital-1"].reveal()
    zeros = np.zeros(20_000, np.uint32)
    mask = add_masks(zeros, [Secret(seed)], [])
    for bit in range(256):
        flipped = bytearray(seed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert byte_chi_square(mask - add_masks(zeros, [Secret(bytes(flipped))], [])) < UNIFORM
    seeds = [seed for state in uploaded()[1].values() for seed in state.round.pair_seeds.values()]
    halves = {half for seed in seeds for half in (seed.reveal()[:14], seed.reveal()[-14:])}
    assert len(halves) == 2 * len(seeds) / 2  # each pair has one seed; no two share a part


def test_alive_and_dropped_lists_never_checked_to_be_disjoint():
    """No request has both lists: who is alive follows from who dropped, and both kinds never leave for one peer."""
    assert RevealPairs.__struct_fields__ == ("session_digest", "dropped")
    assert RevealShares.__struct_fields__ == ("session_digest", "dropped", "shares")
    session, states, _, _ = uploaded(arrive=names(4))
    request = session.advance()["hospital-0"]
    state = states["hospital-0"]
    assert decode(request, RevealPairs).dropped == ("hospital-4",)
    full = uploaded()[0].advance()["hospital-0"]
    revealed, _ = secagg.reveal_pairs(state, request)
    with pytest.raises(RemoteProtocolError, match="not those whose pair seeds were revealed"):
        secagg.reveal_shares(revealed, full)
    unmasked, _ = secagg.reveal_shares(state, full)
    with pytest.raises(RemoteProtocolError, match="not allowed in state Unmasked"):
        secagg.reveal_pairs(unmasked, request)


@pytest.mark.parametrize("field", ["key", "signature"])
def test_unsigned_keys(field):
    """A coordinator that puts its own key in the place of a hospital's is refused by all."""
    states, aggregator = announce(recover_terms(4, 3))
    keys = decode(secagg.relay(aggregator), SetupKeys).keys
    _, own = secagg.begin_setup(recover_terms(4, 3), "hospital-2", identity("hospital-2"), randomness("coordinator"))
    own_key = getattr(decode(own, messages.SetupKey), field)
    forged = (*keys[:2], msgspec.structs.replace(keys[2], **{field: own_key}), keys[3])
    for state in states.values():
        with pytest.raises(RemoteProtocolError, match="hospital-2"):
            secagg.finish_setup(state, encode(SetupKeys(forged)))


def test_coordinator_chosen_neighbours_and_threshold():
    """No message carries a threshold or a list of neighbours; everybody in U is everybody's neighbour."""
    fields = {
        type_.__name__: set(type_.__struct_fields__)
        for type_ in vars(messages).values()
        if isinstance(type_, type) and issubclass(type_, messages.Message)
    }
    asked = fields["SetupKeys"] | fields["SessionRequest"] | fields["RevealPairs"] | fields["RevealShares"]
    assert asked == {"keys", "session", "contributors", "session_digest", "dropped", "shares"}
    _, states, _, _ = uploaded(5, 4, 1)
    for state in states.values():
        assert set(state.round.pair_seeds) == set(names(5)) - {state.name}
    states, _ = set_up(recover_terms(5, 4, 1))
    for few in (names(2), names(3)):
        with pytest.raises(RemoteProtocolError, match="at least 4 are needed"):
            secagg.check_request(states["hospital-0"], encode(RecoverRequest(1, few)))


def test_number_of_examples_and_metrics_in_clear():
    """Beside the masked vector there are names, numbers of the session, keys and sums of checks: nothing about data."""
    assert messages.UploadHeader.__struct_fields__ == ("sender", "session", "session_digest", "words", "checksum")
    assert messages.RecoverHeader.__struct_fields__ == (*messages.UploadHeader.__struct_fields__, "shares")
    assert messages.Pairs.__struct_fields__ == ("sender", "session_digest", "dropped", "seeds")
    assert messages.Shares.__struct_fields__ == ("sender", "session_digest", "dropped", "shares")
    states, _ = set_up(recover_terms(3, 3))
    request = encode(RecoverRequest(1, names(3)))
    sizes = set()
    for seed in range(4):
        vector = vectors(["v"], 50, seed)["v"] if seed else np.zeros(50, np.uint32)
        _, sent = secagg.upload_recover(states["hospital-0"], request, MODEL, vector, randomness(seed))
        sizes.add(len(sent.header))
    assert len(sizes) == 1
    assert set(inspect.signature(secagg.upload_recover).parameters) == {
        "state", "request", "model_digest", "vector", "random", "in_place",
    }  # fmt: skip


def test_a_dropout_during_set_up_losing_the_whole_round():
    """Set-up is once per run. A hospital that vanishes after its key does not even cost the first round."""
    announced, aggregator = announce(recover_terms(5, 4, 1))
    relayed = secagg.relay(aggregator)
    states = {name: secagg.finish_setup(state, relayed) for name, state in announced.items() if name != "hospital-4"}
    inputs = vectors(names(4), 3)
    aggregator, session = secagg.open_recovery(aggregator, 1, names(5), MODEL, 3)
    states, _ = upload_to(session, states, inputs)
    states, total = unmask(session, states)
    assert total.tolist() == plain_sum(inputs.values())
    states["hospital-4"] = secagg.finish_setup(announced["hospital-4"], relayed)  # and it may come back
    _, session = secagg.open_recovery(aggregator, 2, names(5), MODEL, 3)
    states, _ = upload_to(session, states, vectors(names(5), 3))
    assert unmask(session, states)[1].tolist() == plain_sum(vectors(names(5), 3).values())


@pytest.mark.parametrize("mode", ["retry", "recover"])
def test_the_same_mask_used_for_two_vectors(mode):
    states, aggregator = set_up({"retry": make_terms(4, 3, 1), "recover": recover_terms(4, 3)}[mode])
    opening = {"retry": secagg.open_session, "recover": secagg.open_recovery}[mode]
    _, session = opening(aggregator, 1, names(4), MODEL, 1)

    def upload(state, request):
        vector = np.zeros(1, np.uint32)
        if mode == "retry":
            return secagg.upload(state, request, MODEL, vector)[0]
        return secagg.upload_recover(state, request, MODEL, vector, randomness(1))[0]

    after = upload(states["hospital-0"], session.request)
    assert secagg.is_repeat(after, session.request, MODEL)
    other_list = opening(aggregator, 1, names(3), MODEL, 1)[1].request
    for request in (session.request, other_list):
        with pytest.raises(RemoteProtocolError, match="session is over"):
            upload(secagg.load(secagg.dump(after)), request)


def test_related_seeds_across_rounds():
    """Pair seeds, self masks, share keys and shares of consecutive sessions are all different, and so are the masks."""
    states, aggregator = set_up(recover_terms(4, 3))
    seen, masks = [], []
    for number in (1, 2, 3):
        _, session = secagg.open_recovery(aggregator, number, names(4), MODEL, 3)
        states, _ = upload_to(session, states, vectors(names(4), 3), seed=number)
        kept = states["hospital-0"].round
        seen += [*kept.pair_seeds.values(), *kept.share_keys.values(), kept.own_share]
        masks.append(add_masks(np.zeros(20_000, np.uint32), [kept.pair_seeds["hospital-1"]], []))
    assert len({secret.reveal() for secret in seen}) == len(seen) == 21
    for one, other in itertools.combinations(masks, 2):
        assert byte_chi_square(one - other) < UNIFORM
        assert byte_chi_square(one ^ other) < UNIFORM


def test_one_secret_key_shared_by_all_clients():
    """Every pair has keys of its own, and each direction of a sealed share has one."""
    _, states, _, _ = uploaded(5, 4, 1)
    seeds, keys = {}, []
    for name, state in states.items():
        for peer, seed in state.round.pair_seeds.items():
            pair = frozenset((name, peer))
            assert seeds.setdefault(pair, seed.reveal()) == seed.reveal()
        keys += [key.reveal() for key in state.round.share_keys.values()]
    assert len(set(seeds.values())) == 10
    assert len(set(keys)) == 20
    chains = [chain.reveal() for state in states.values() for chain in state.ready.chains.values()]
    assert len(set(chains)) == 10
