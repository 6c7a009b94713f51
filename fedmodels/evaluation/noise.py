"""The noise in summed evaluation counts, as far as it is public: how much there is and how to draw the like again."""

import math
from dataclasses import dataclass

import numpy as np

from fedmodels.evaluation.scores import Floats


@dataclass(frozen=True)
class Noise:
    """In each count, the sum of `hospitals` discrete Laplace draws, P(x) proportional to exp(-|x| / scale).

    scale 0: no noise. A hospital that leaves its noise out makes intervals too wide, not too narrow.
    """

    hospitals: int = 0
    scale: float = 0.0

    @property
    def variance(self) -> float:
        """Of each count."""
        if not self.scale:
            return 0.0
        ratio = math.exp(-1.0 / self.scale)
        return self.hospitals * 2.0 * ratio / (1.0 - ratio) ** 2

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
        """Such noise, for replicates of a published sum: never what protects a patient."""
        if not self.variance:
            return np.zeros(shape)
        # A discrete Laplace draw is a difference of two geometric ones, and geometric draws add up to negative binomial
        keep = -math.expm1(-1.0 / self.scale)
        first, second = (random.negative_binomial(self.hospitals, keep, shape) for _ in range(2))
        return (first - second).astype(np.float64)


def smoothed(counts: Floats) -> Floats:
    """[..., bins] counts of the same total without negative ones, for what needs a distribution; exact ones stay.

    The cumulative counts are made monotone, halfway between their upper and lower envelopes: clipping bin by bin
    would add a record per empty bin.
    """
    cumulative = np.cumsum(counts, axis=-1)
    cumulative = np.clip(cumulative, 0.0, np.maximum(cumulative[..., -1:], 0.0))
    upper = np.maximum.accumulate(cumulative, axis=-1)
    lower = np.minimum.accumulate(cumulative[..., ::-1], axis=-1)[..., ::-1]
    envelope: Floats = np.diff((upper + lower) / 2, prepend=0.0, axis=-1)
    return envelope
