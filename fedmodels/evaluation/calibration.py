"""Temperature scaling (Guo et al., ICML 2017) from counts, and calibrated probabilities.

A temperature above 1 makes an overconfident model more careful; it changes no order and no most probable label. For two
labels the counts say all that a temperature needs, up to their bins. For more, a record's probabilities are not known
together, only each against the rest: the fit minimises the sum of those binary losses, whose minimum is at 1 for a
calibrated model, as that of the exact loss is, and elsewhere on the same side of 1 but less far: on a text model of 11
departments 1.19 where the exact one is 1.18, 2.25 where it is 2.36, and 2.67 where it is 3.55.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.optimize import minimize_scalar

from fedmodels.evaluation.noise import Noise
from fedmodels.evaluation.scores import Floats

_LOWEST, _HIGHEST, _STEPS = 0.2, 10.0, 80
_ERRORS = 1.96  # standard errors that a logarithm of the temperature has to be away from 0
_FEWEST, _NOISE = 20.0, 4.0


@dataclass(frozen=True)
class Working:
    """How a published model is used. threshold: of the calibrated probability of the second of two labels."""

    temperature: float = 1.0
    threshold: float = 0.5
    specificity: float = 0.9


class Temperature(Struct, frozen=True):
    """temperature: 1 unless the counts say otherwise; `why` tells in words. interval: 95%, where it could be fitted."""

    temperature: float
    why: str
    interval: tuple[float, float] | None = None


def calibrated(probabilities: npt.NDArray[np.floating], temperature: float) -> Floats:
    """[n, labels] the probabilities at a temperature > 0: those of the logits divided by it.

    Scaled logits are scaled logarithms of probabilities, so that no model has to be run again. 0 stays 0.
    """
    p: Floats = probabilities.astype(np.float64)
    if temperature == 1.0:
        return p
    powers = (p / p.max(axis=1, keepdims=True)) ** (1.0 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def calibrated_score(score: Floats, temperature: float) -> Floats:
    """The same for probabilities of one label against the rest."""
    return calibrated(np.stack([1.0 - score, score], axis=1), temperature)[:, 1]


def enough(head: Floats, noise: Noise) -> bool:
    """Whether both classes of a histogram [2, bins] have the records that fitting anything to them needs."""
    least = max(_FEWEST, _NOISE * float(np.sqrt(noise.variance * head.shape[1])))
    return bool((head.sum(1) >= least).all())


def fit_temperature(heads: Floats, middles: Floats, noise: Noise) -> Temperature:
    """The temperature of histograms [heads, 2, bins] whose bins have these middles.

    It stays 1 where a class has too few records (labels without them are left out), and unless 1 is outside its 95%
    interval: noise and chance must not spoil a model that is well calibrated.
    """
    told = np.array([head for head in heads if enough(head, noise)])
    if not len(told):
        return Temperature(1.0, "too few records for a fit")
    odds = np.log(middles) - np.log1p(-middles)

    def loss(logarithm: float) -> float:
        scaled = np.exp(-logarithm) * odds
        return float((told[:, 1] @ np.logaddexp(0, -scaled) + told[:, 0] @ np.logaddexp(0, scaled)).sum())

    grid = np.linspace(np.log(_LOWEST), np.log(_HIGHEST), _STEPS)
    best = int(np.argmin([loss(value) for value in grid]))
    if best in (0, _STEPS - 1):
        return Temperature(1.0, f"no minimum between {_LOWEST:g} and {_HIGHEST:g}")
    found = float(minimize_scalar(loss, bounds=(grid[best - 1], grid[best + 1]), method="bounded").x)
    error = _standard_error(told, np.exp(-found) * odds, noise)
    if not np.isfinite(error):
        return Temperature(1.0, "the counts are too noisy for a fit")
    interval = (float(np.exp(found - _ERRORS * error)), float(np.exp(found + _ERRORS * error)))
    if interval[0] <= 1.0 <= interval[1]:
        return Temperature(1.0, "the counts do not tell it from 1", interval)
    return Temperature(float(np.exp(found)), "fitted to the counts", interval)


def _standard_error(heads: Floats, scaled: Floats, noise: Noise) -> float:
    """Of log T: the root's sandwich estimate. Heads share their patients, so their deviations add up at worst."""
    p = 1.0 / (1.0 + np.exp(-scaled))
    slopes = np.stack([-p * scaled, (1.0 - p) * scaled])  # of the loss per record, by class
    curvature = float((heads.sum(1) @ (p * (1.0 - p) * scaled**2)).sum()) - float((heads * slopes).sum())
    sampling = np.sqrt(np.maximum((heads * slopes**2).sum((1, 2)), 0.0)).sum()
    drawn = noise.variance * len(heads) * (slopes**2).sum()
    return float(np.sqrt(sampling**2 + drawn) / curvature) if curvature > 0 else float("inf")
