"""How much privacy a sequence of Poisson-sampled Gaussian releases costs.

The accountant is the privacy loss distribution (PLD) of dp-accounting: Koskela et al. 2020, with the connect-the-dots
discretisation of Doroshenko et al. 2022. Every result is a bracket: the pessimistic bound is what is charged and
reported, the optimistic one shows how tight it is. Adjacency is add/remove of one patient; `adjacency` has the bounds
for replaced patients and for patients known at several hospitals. Values are cached per process because a grid
evaluation takes up to a second.

Several events compose as PLD where all of them were fixed before the first result was seen: a study's rounds, studies
planned together. A study that was planned after looking at another's result goes through `renyi_filter`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce

from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution as pld

from fedmodels.errors import PrivacyError

_GRID = 1e-3  # discretisation of the privacy loss; any grid gives valid bounds, a finer one a narrower bracket
_COARSE_GRID = 1e-2
_FINE_GRID = 1e-4
_RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class SampledGaussian:
    """`steps` releases of a sum of vectors of norm <= C over a Poisson sample, with noise of std noise_multiplier * C.

    sampling_rate: probability q in (0, 1] of each patient, independently; noise_multiplier: sigma > 0 in units of C.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise PrivacyError(f"sampling rate {self.sampling_rate} is not in (0, 1]")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0.0):
            raise PrivacyError(f"noise multiplier {self.noise_multiplier} is not a positive number")
        if self.steps < 0:
            raise PrivacyError(f"{self.steps} steps are not possible")


Events = SampledGaussian | tuple[SampledGaussian, ...]


@dataclass(frozen=True)
class EpsilonBounds:
    """True epsilon lies in [lower, upper]; `upper` is the value to charge."""

    lower: float
    upper: float


def epsilon_upper(events: Events, delta: float) -> float:
    """The epsilon to charge for all of `events` together at `delta` in (0, 1): never below the true one.

    Zero steps cost nothing.
    """
    check_delta(delta)
    return _epsilon(as_tuple(events), delta, pessimistic=True, grid=_GRID)


def epsilon_lower(event: SampledGaussian, delta: float) -> float:
    """The optimistic counterpart of `epsilon_upper`: never above the true epsilon, by up to steps * 5e-5 below it.

    By ten times that for noise multipliers below 1/2, whose epsilon is large and slow to compute.
    """
    check_delta(delta)
    grid = _FINE_GRID if event.noise_multiplier >= 0.5 else _GRID
    return _epsilon(as_tuple(event), delta, pessimistic=False, grid=grid)


def delta_upper(events: Events, epsilon: float) -> float:
    """The delta of all of `events` together at a finite `epsilon` >= 0: never below the true one."""
    if not (math.isfinite(epsilon) and epsilon >= 0.0):
        raise PrivacyError(f"epsilon {epsilon} is not a finite number of at least 0")
    every = as_tuple(events)
    return float(_losses(every, pessimistic=True, grid=_GRID).get_delta_for_epsilon(epsilon)) if every else 0.0


def epsilon_bounds(event: SampledGaussian, delta: float) -> EpsilonBounds:
    """`epsilon_upper` with an optimistic bound beside it (wider for many steps: up to steps * 5e-5 below)."""
    return EpsilonBounds(epsilon_lower(event, delta), epsilon_upper(event, delta))


def as_tuple(events: Events) -> tuple[SampledGaussian, ...]:
    """The events that have steps."""
    every = (events,) if isinstance(events, SampledGaussian) else events
    return tuple(event for event in every if event.steps)


def check_delta(delta: float) -> None:
    """`PrivacyError` for a delta that is not in (0, 1)."""
    if not 0.0 < delta < 1.0:
        raise PrivacyError(f"delta {delta} is not in (0, 1)")


def calibrate(sampling_rate: float, steps: int, target: float, delta: float) -> float:
    """The smallest noise multiplier (within 0.01%) whose pessimistic epsilon over `steps` is at most `target`.

    It lands on the private side: `epsilon_upper(...) <= target` holds for the result. Raises `PrivacyError` where no
    noise multiplier up to 10,000 is enough.
    """

    def upper(noise: float) -> float:
        return epsilon_upper(SampledGaussian(sampling_rate, noise, steps), delta)

    low, high = _bracket(sampling_rate, steps, target, delta)
    while upper(high) > target:
        low, high = high, high * 1.05
    while upper(low) <= target:
        low, high = low * 0.95, low
    while high - low > _RELATIVE_TOLERANCE * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if upper(middle) <= target else (middle, high)
    return high


def _bracket(sampling_rate: float, steps: int, target: float, delta: float) -> tuple[float, float]:
    """Noise multipliers near the one wanted, below and above it as far as a coarse grid can tell."""
    if target <= 0.0 or steps < 1:
        raise PrivacyError(f"cannot calibrate noise to epsilon {target} over {steps} steps")

    def coarse(noise: float) -> float:
        return _epsilon((SampledGaussian(sampling_rate, noise, steps),), delta, pessimistic=True, grid=_COARSE_GRID)

    high = 1.0
    while coarse(high) > target:
        high *= 2.0
        if high > 10_000.0:
            raise PrivacyError(
                f"no reasonable noise gives epsilon {target} over {steps} steps",
                fix="raise `privacy.epsilon`, or take fewer rounds or a smaller `training.batch_rate`",
            )
    low = high / 2.0
    while low > 0.2 and coarse(low) <= target:
        high, low = low, low / 2.0
    while high - low > 0.01 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if coarse(middle) <= target else (middle, high)
    return low, high


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[SampledGaussian, ...], delta: float, *, pessimistic: bool, grid: float) -> float:
    return float(_losses(events, pessimistic=pessimistic, grid=grid).get_epsilon_for_delta(delta)) if events else 0.0


@lru_cache(maxsize=16)
def _losses(events: tuple[SampledGaussian, ...], *, pessimistic: bool, grid: float) -> pld.PrivacyLossDistribution:
    return compose((_one_step(e.sampling_rate, e.noise_multiplier, pessimistic, grid), e.steps) for e in events)


def compose(steps: Iterable[tuple[pld.PrivacyLossDistribution, int]]) -> pld.PrivacyLossDistribution:
    """The privacy loss of all of them together, each as often as the number beside it says; at least one."""
    return reduce(lambda left, right: left.compose(right), [loss.self_compose(count) for loss, count in steps])


@lru_cache(maxsize=64)
def _one_step(rate: float, noise: float, pessimistic: bool, grid: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise,
        sensitivity=1.0,
        pessimistic_estimate=pessimistic,
        value_discretization_interval=grid,
        use_connect_dots=pessimistic,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
