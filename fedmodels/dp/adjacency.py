"""Privacy for other neighbours than add/remove of one patient: replaced patients, and groups.

A *group of k* is k patients, or one patient who is known at k hospitals under k pseudonyms that nobody can link. What
is proven for one holds for the group in a weaker form. Where each hospital carries its own noise (`local`), a patient
known at k of them is in k independent mechanisms: `epsilon_upper` of the k hospitals' events, as a tuple, is the bound
against whoever sees them all. Where all contributions go into one sum with one noise (`distributed`), and for patients
of one hospital, `group_upper` is.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld

from fedmodels.dp.accounting import Events, as_tuple, check_delta, compose
from fedmodels.errors import PrivacyError

_GRID = 1e-3


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy."""

    epsilon: float
    delta: float


def replace_one_upper(events: Events, delta: float) -> float:
    """Epsilon, never below the true one, where one patient's whole record is exchanged for another's.

    Computed directly as PLD, far below the conversion of any add/remove guarantee that `group_guarantee` makes (an
    exchange is a removal and an addition: a group of 2). With noise of deviation s in units of the clip the dominating
    pair of a step is (1-q) N(0, s^2) + q N(-1, s^2) against (1-q) N(0, s^2) + q N(1, s^2): advanced joint convexity
    (Balle, Barthe and Gaboardi 2018, Theorem 2) leaves N(g, s^2) against a mixture of N(0, s^2) and N(g', s^2), which
    is worst for the longest distances, 1 and 2 (Choquette-Choo et al. 2024, Corollary 4.7), so for g' = -g.
    """
    check_delta(delta)
    steps = [(_replaced(e.sampling_rate, e.noise_multiplier), e.steps) for e in as_tuple(events)]
    return float(compose(steps).get_epsilon_for_delta(delta)) if steps else 0.0


def group_upper(events: Events, delta: float, members: int) -> float:
    """Epsilon, never below the true one, for adding or removing `members` >= 1 contributions to every sum.

    Each member is sampled independently at rate q, so that a step's sum moves by at most j clips with the probability
    that Binomial(members, q) is j: a mixture of Gaussians, whose PLD is computed directly (Choquette-Choo et al. 2024,
    Corollary 4.7). Rounding to a lattice is in: j roundings move a sum by at most j single sensitivities. 1 is
    `epsilon_upper`. Takes about a second for each different event.
    """
    check_delta(delta)
    _check_members(members)
    steps = [(_grouped(e.sampling_rate, e.noise_multiplier, members), e.steps) for e in as_tuple(events)]
    return float(compose(steps).get_epsilon_for_delta(delta)) if steps else 0.0


def group_guarantee(single: Guarantee, members: int) -> Guarantee:
    """What any (epsilon, delta) mechanism whatever guarantees for a group of `members` >= 1.

    (k epsilon, delta (e^(k epsilon) - 1) / (e^epsilon - 1)): Vadhan 2017, Lemma 2.2. Only for mechanisms that have no
    event; for those that do, `group_upper` is far lower.
    """
    _check_members(members)
    epsilon, delta = single.epsilon, single.delta
    if not (epsilon >= 0.0 and 0.0 <= delta <= 1.0):
        raise PrivacyError(f"({epsilon}, {delta}) is no differential privacy guarantee")
    if delta == 0.0:
        return Guarantee(members * epsilon, 0.0)
    if members * epsilon > 700.0:  # e^700 is all that a float holds; with this much, nothing is promised
        return Guarantee(members * epsilon, 1.0)
    factor = math.expm1(members * epsilon) / math.expm1(epsilon) if epsilon > 0.0 else members
    return Guarantee(members * epsilon, min(1.0, delta * factor))


def _check_members(members: int) -> None:
    if members < 1:
        raise PrivacyError(f"a group of {members} is not possible")


@lru_cache(maxsize=64)
def _replaced(rate: float, noise: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise,
        value_discretization_interval=_GRID,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.REPLACE_ONE,
    )


@lru_cache(maxsize=64)
def _grouped(rate: float, noise: float, members: int) -> pld.PrivacyLossDistribution:
    chances = [math.comb(members, j) * rate**j * (1.0 - rate) ** (members - j) for j in range(members + 1)]
    possible = [j for j, chance in enumerate(chances) if chance > 0.0]
    return pld.from_mixture_gaussian_mechanism(
        noise, possible, [chances[j] for j in possible], value_discretization_interval=_GRID
    )
