"""A budget over the lifetime of a data set, for studies that are planned after looking at earlier studies' results.

Composition theorems with fixed parameters do not hold then: whoever chooses the next noise by the last outcome may
choose well. A Renyi filter does hold (Feldman and Zrnic 2021; Lecuyer 2021): at a Renyi order that is
fixed beforehand, the privacy losses of adaptively chosen mechanisms may be added up until they reach a fixed bound.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from fedmodels.dp.accounting import Events, SampledGaussian, as_tuple, check_delta
from fedmodels.errors import PrivacyError

_GRID = tuple(1.0 + 2.0 ** (step / 4) for step in range(-8, 37))  # orders from 1.25 to 513


@dataclass(frozen=True)
class RenyiFilter:
    """(epsilon, delta)-DP, add/remove of one patient, for all admitted events together, however they were chosen.

    Guarantee: if every event was admitted given all before it, and the parameters of each were chosen by whatever the
    earlier ones released, the whole is (epsilon, delta)-DP. The filter watches two orders, each with half of delta,
    and admits while one of them is within its bound. An order alone would guarantee its half: stopped at its bound,
    exp((order - 1) * (loss - spent)) is a supermartingale; the two halves add up. Both orders follow from epsilon
    and delta alone: the one that admits most unsampled Gaussian noise, and one about 0.7 times as high, which suits
    small sampling rates. Where it says no, PLD with fixed parameters would have 10 to 30% of epsilon left.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0.0):
            raise PrivacyError(f"a lifetime budget of epsilon {self.epsilon} is not a positive number")

    @property
    def orders(self) -> tuple[float, float]:
        """The two Renyi orders that are watched, fixed by the budget."""
        best = max(range(2, len(_GRID)), key=lambda place: self._bound(_GRID[place]) / _GRID[place])
        return _GRID[best], _GRID[best - 2]

    def admits(self, past: Events, candidate: SampledGaussian) -> bool:
        """Whether `candidate` may run after `past`, all events already admitted, without passing the budget.

        The answer depends on events only, never on data, and may be told to anyone.
        """
        events = (*as_tuple(past), *as_tuple(candidate))
        spent = sum((_renyi(event, self.orders) for event in events), np.zeros(2))
        return bool(any(loss <= self._bound(order) for loss, order in zip(spent, self.orders, strict=True)))

    def _bound(self, order: float) -> float:
        """The largest Renyi loss of this order that implies (epsilon, delta / 2): Canonne et al. 2020, Prop. 12."""
        half = self.delta / 2.0
        return self.epsilon - math.log1p(-1.0 / order) + math.log(half * order) / (order - 1.0)


@lru_cache(maxsize=1024)
def _renyi(event: SampledGaussian, orders: tuple[float, float]) -> npt.NDArray[np.float64]:
    accountant = RdpAccountant(list(orders))
    accountant.compose(PoissonSampledDpEvent(event.sampling_rate, GaussianDpEvent(event.noise_multiplier)), event.steps)
    return np.array(accountant.rdp, np.float64)
