"""The contributor's `recover` round: upload with a shared self mask, then unmask in one or two steps.

Step A reveals the pair seeds shared with the hospitals that dropped out (D), step B the shares of the survivors' self
masks. A peer's masked vector is protected by both kinds of mask, and whoever has both kinds of secret has its vector:
so a contributor never releases both kinds for the same peer. `states.TRANSITIONS` has no way to: step A is over once
step B is done, step B excludes exactly the D of step A, and D only grows.

Each event returns a new state. Persist it *before* sending the reply: without D on the disk, a contributor that
restarts would release the other kind of secret for a member of D.
"""

from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.contributor import Upload, begin_upload, check_request, end_upload, pair_seeds
from fedmodels.secagg.keystream import Vector, mask_in_place
from fedmodels.secagg.messages import Pairs, RecoverHeader, RevealPairs, RevealShares, Shares, decode, encode
from fedmodels.secagg.primitives import Label, Randomness, Secret, derive, digest, seal, unseal
from fedmodels.secagg.shamir import is_scalar, scalars, split
from fedmodels.secagg.states import (
    REVEAL_PAIRS,
    REVEAL_SHARES,
    UPLOAD_RECOVER,
    PairsRevealed,
    Ready,
    Round,
    State,
    Unmasked,
    Uploaded,
    enter,
    ready_of,
)
from fedmodels.secagg.terms import dropped_problem, session_digest

_OTHER_SESSION = "it is not for the session, model and contributors of this hospital's last upload"


def upload_recover(
    state: State,
    request: bytes,
    model_digest: bytes,
    vector: Vector,
    random: Randomness,
    *,
    in_place: bool = False,
) -> tuple[Uploaded, Upload]:
    """Mask `vector` for the contributors of the session, share the self mask among them, and ratchet the chain keys.

    request: an encoded `RecoverRequest`. model_digest, vector, in_place, errors, sharp edges: as `contributor.upload`.
    An earlier session that was not unmasked is abandoned: its keys are erased with the old state.

    Formal guarantee: what leaves is uniformly random to everybody who does not hold both the self mask (t shares) and
    the pair seeds with all honest contributors outside the sum; see `Terms` for the bound that follows.
    """
    before = ready_of(enter(UPLOAD_RECOVER, state))
    asked = check_request(before, request)
    current = begin_upload(before, asked, model_digest, vector)
    binding, name = session_digest(before.transcript, asked, model_digest), before.name
    seeds = pair_seeds(current, asked, binding)
    # enter() has established that the terms are those of `recover`, which have a threshold
    polynomial = scalars(before.terms.threshold or 0, random)
    masked = vector if in_place else vector.copy()
    proof = mask_in_place(
        masked,
        plus=[self_mask(polynomial[0], binding, name), *(seed for peer, seed in seeds.items() if name < peer)],
        minus=[seed for peer, seed in seeds.items() if name > peer],
        session=binding,
        sender=name,
    )
    shares = dict(zip(asked.contributors, split(polynomial, len(asked.contributors)), strict=True))
    sealed = tuple(
        seal(_share_key(current, binding, name, peer), shares[peer], _share_data(binding, name, peer)) for peer in seeds
    )
    header = RecoverHeader(name, asked.session, binding, masked.size, proof, sealed)
    keys = {peer: _share_key(current, binding, peer, name) for peer in seeds}
    kept = Round(binding, asked.contributors, seeds, keys, shares[name])
    return Uploaded(end_upload(current, request, model_digest), kept), Upload(encode(header), masked)


def self_mask(secret: Secret, binding: bytes, name: str) -> Secret:
    """The seed of the mask that belongs to a shared secret b."""
    return derive(secret, Label.SELF_MASK, binding, name.encode())


def _share_key(current: Ready, binding: bytes, dealer: str, holder: str) -> Secret:
    """Seals one share only: it depends on session, dealer and holder."""
    peer = holder if dealer == current.name else dealer
    return derive(current.chains[peer], Label.SHARE_KEY, binding, dealer.encode(), holder.encode())


def _share_data(binding: bytes, dealer: str, holder: str) -> bytes:
    return digest(Label.SHARE_DATA, binding, dealer.encode(), holder.encode())


def reveal(state: State, request: bytes) -> tuple[PairsRevealed | Unmasked, bytes]:
    """Step A or step B, whichever `request` asks for."""
    try:
        decode(request, RevealPairs)
    except RemoteProtocolError:
        return reveal_shares(state, request)
    return reveal_pairs(state, request)


def reveal_pairs(state: State, request: bytes) -> tuple[PairsRevealed, bytes]:
    """Step A: the pair seeds shared with each of D, as encoded `Pairs`.

    request: an encoded `RevealPairs`. The same D again gets the same bytes, a larger one those of its members too.
    `RemoteProtocolError`, and no change, unless it is for this contributor's last upload, D holds the D of before but
    not this contributor, and max(t, min_contributors) or more survive.
    """
    current = enter(REVEAL_PAIRS, state)
    asked, round_ = decode(request, RevealPairs), current.round
    if problem := _pairs_problem(current, asked):
        raise _refused("step A", problem)
    seeds = tuple(round_.pair_seeds[peer] for peer in asked.dropped)
    reply = Pairs(current.name, round_.session_digest, asked.dropped, seeds)
    return PairsRevealed(current.ready, round_, asked.dropped), encode(reply)


def _pairs_problem(state: Uploaded | PairsRevealed, asked: RevealPairs) -> str:
    before = state.dropped if isinstance(state, PairsRevealed) else ()
    if asked.session_digest != state.round.session_digest:
        return _OTHER_SESSION
    if not asked.dropped:
        return "nobody dropped out, so no pair seed is needed"
    if state.name in asked.dropped:
        return "this hospital is listed as dropped and asked as a survivor"
    if not set(before) <= set(asked.dropped):
        return "a hospital that had dropped out is listed as a survivor"
    return dropped_problem(state.terms, state.round.contributors, asked.dropped)


def reveal_shares(state: State, request: bytes) -> tuple[Unmasked, bytes]:
    """Step B: a share of the self mask of every survivor, as encoded `Shares`; all keys of the round are erased.

    request: an encoded `RevealShares`. The very same request again gets the same bytes. `RemoteProtocolError`, and no
    change, unless it is for this contributor's last upload, D is that of its step A (none: nobody), and some sealed
    share opens.

    One that was changed, swapped, or sealed for another session, dealer or holder does not open, and None stands in its
    place: so that its dealer cannot keep this contributor from answering for the others. That reveals a part of what
    the right request would have, once: there is no second answer with the shares that are missing.
    """
    current = enter(REVEAL_SHARES, state)
    answered = digest(Label.ANSWERED, request)
    if isinstance(current, Unmasked):
        if answered != current.answered:
            raise _refused("step B", "the shares of this session are out already, for another request")
        return current, encode(current.reply)
    asked, round_ = decode(request, RevealShares), current.round
    dropped = current.dropped if isinstance(current, PairsRevealed) else ()
    survivors = tuple(peer for peer in round_.contributors if peer not in dropped)
    problem = "" if asked.session_digest == round_.session_digest else _OTHER_SESSION
    if not problem and asked.dropped != dropped:
        problem = "the dropped hospitals are not those whose pair seeds were revealed"
    if not problem and len(asked.shares) != len(survivors) - 1:
        problem = f"{len(asked.shares)} sealed shares for {len(survivors)} survivors"
    if problem:
        raise _refused("step B", problem)
    shares = _open_shares(current, survivors, asked.shares)
    if sum(share is not None for share in shares) == 1:
        raise _refused("step B", "no share opens but this hospital's own: they are not for it, or all were changed")
    reply = Shares(current.name, round_.session_digest, dropped, shares)
    return Unmasked(current.ready, answered, reply), encode(reply)


def _open_shares(
    state: Uploaded | PairsRevealed, survivors: tuple[str, ...], sealed: tuple[bytes, ...]
) -> tuple[Secret | None, ...]:
    """The shares dealt by `survivors`, of which this contributor is one; the others' are `sealed`, in their order."""
    waiting, shares = list(sealed), []
    for dealer in survivors:
        share: Secret | None = state.round.own_share
        if dealer != state.name:
            data = _share_data(state.round.session_digest, dealer, state.name)
            share = unseal(state.round.share_keys[dealer], waiting.pop(0), data)
        shares.append(share if share is not None and is_scalar(share) else None)
    return tuple(shares)


def _refused(step: str, problem: str) -> RemoteProtocolError:
    return RemoteProtocolError(problem, where=step, fix="nothing was revealed; the coordinator must ask differently")
