"""The mechanism of mode `distributed`: hospitals' noise shares on the integer lattice of secure aggregation.

Each hospital rounds its sum of clipped gradients to integers and adds a discrete Gaussian share; only the sum over all
hospitals is ever seen, and carries all shares. Noise is planned for the shares that are certain: those of hospitals
that are in every sum that can be seen and that do not collude with the observer.

The noise is charged as a Gaussian of the same deviation. Sums of shares of scale >= 3 are discrete Gaussian to 1e-37
(Kairouz, Liu and Steinke 2021). Without sampling the discrete Gaussian's Renyi divergences are never above the
Gaussian's (Canonne, Kamath and Steinke 2020). With sampling, and as PLD, the two agree the better the finer the
lattice: computed in one dimension, to within 0.01 of epsilon where a clip is 1 to 4 lattice units and to within what
the accountant resolves, 0.001, from 16 units on. A coarser lattice is refused.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.discrete_gaussian import LARGEST_SIGMA, SMALLEST_SIGMA, Integers, discrete_gaussian
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError

_SMALLEST_CLIP = 16  # lattice units
_HEADROOM_DEVIATIONS = 12
SUMMATION = Fraction(1, 256)  # of the clip: what floating-point summation may add to the sensitivity
_FLOAT_MARGIN = 1.0 + 2.0**-40  # square roots and products of floats err by less


def certain_shares_retry(roster: int, colluders: int) -> int:
    """m where a sum opens only over all `roster` hospitals of the session: all but the colluders."""
    return roster - colluders


def certain_shares_recover(hospitals: int, threshold: int, colluders: int) -> int:
    """m where a sum may open without those who dropped out: 2t - n - c, whoever the coordinator says dropped out."""
    return 2 * threshold - hospitals - colluders


@dataclass(frozen=True)
class LatticeMechanism:
    """One noisy sum over all hospitals per step, together with its accounting event.

    sampling_rate: q of each patient; clip: C > 0, bound on the L2 norm of one patient's gradient; noise_multiplier:
    standard deviation of the noise that is certain in a sum, in units of the sensitivity; dimension: d; scale: lattice
    units per 1.0, a power of two; certain_shares: m >= 1.

    Guarantee: for add/remove of one patient at one hospital, any number of opened sums is as private as `event` says,
    against the coordinator together with all hospitals whose shares are not counted in m. It needs sums of clipped
    gradients whose rounding errors, with and without a patient, differ by at most C / 256 in L2 norm: up to 192 vectors
    may be added in single precision, their sums in double, and which vectors are added with which must not depend on
    who else is there (`client.training.gradient_sum` has the arithmetic). A patient known at several hospitals is a
    group, see `adjacency.group_upper`.

    Raises `PrivacyError` where m < 1, a clip is below 16 lattice units, or a share below 3 or above 2^28.
    """

    sampling_rate: float
    clip: float
    noise_multiplier: float
    dimension: int
    scale: float
    certain_shares: int

    def __post_init__(self) -> None:
        self.event(1)
        if self.certain_shares < 1:
            raise PrivacyError(
                f"{self.certain_shares} noise shares are certain to be in a sum, at least 1 is needed",
                where="noise",
                fix="let more hospitals take part, tolerate fewer colluders, or raise the threshold",
            )
        if not (math.isfinite(self.clip) and self.clip > 0.0 and self.dimension >= 1):
            raise PrivacyError(f"clip {self.clip} in {self.dimension} dimensions is not possible", where="noise")
        if not (math.isfinite(self.scale) and self.scale > 0.0 and math.frexp(self.scale)[0] == 0.5):
            raise PrivacyError(f"{self.scale} lattice units per 1.0 is not a power of two", where="noise")
        if self.clip * self.scale < _SMALLEST_CLIP:
            raise PrivacyError(
                f"a clip of {self.clip * self.scale:.3g} lattice units is below {_SMALLEST_CLIP}, a lattice too coarse",
                where="noise",
                fix="choose more lattice units per 1.0",
            )
        if not SMALLEST_SIGMA <= self.share_sigma <= LARGEST_SIGMA:
            raise PrivacyError(
                f"a noise share of {self.share_sigma:.3g} lattice units is not between {SMALLEST_SIGMA} and 2^28",
                where="noise",
                fix="choose more lattice units per 1.0 where it is too small, fewer where it is too large",
            )

    @property
    def sensitivity(self) -> int:
        """L2 sensitivity of a rounded sum in lattice units: C * scale * (1 + 1/256) + sqrt(d), rounded up.

        Sums with and without a patient are each rounded, and each rounding moves each coordinate by up to 1/2: together
        by 1. (Half of that would do if every patient's gradient was rounded on its own.) C / 256 is for the
        floating-point errors of both sums. Clipping of coordinates before rounding never increases a distance.
        """
        clip = math.ceil(Fraction(self.clip) * Fraction(self.scale) * (1 + SUMMATION))
        return clip + math.isqrt(self.dimension) + 1

    @property
    def total_sigma(self) -> float:
        """Standard deviation of the noise that is certain in a sum, in lattice units."""
        return self.noise_multiplier * self.sensitivity * _FLOAT_MARGIN

    @property
    def share_sigma(self) -> float:
        """Scale of each hospital's discrete Gaussian share, in lattice units: m of them make up `total_sigma`."""
        return self.total_sigma / math.sqrt(self.certain_shares) * _FLOAT_MARGIN

    def event(self, steps: int) -> SampledGaussian:
        """The accounting event of this many opened sums."""
        return SampledGaussian(self.sampling_rate, self.noise_multiplier, steps)

    def share(self, source: SecureSource) -> Integers:
        """[d] one hospital's noise for one sum; `source` must be this hospital's own and used for nothing else."""
        return discrete_gaussian(self.dimension, self.share_sigma, source)

    def headroom(self, contributors: int) -> int:
        """Lattice units to keep free for the noise of all `contributors` >= certain_shares hospitals' shares.

        It is 12 standard deviations of their sum. A discrete Gaussian is subgaussian (Canonne et al. 2020), so
        that any of the d coordinates goes beyond it with probability at most 2 d e^-72, below 1e-22 for d = 10^8.
        What happens then is a wrong coordinate in the model, not a loss of privacy: wrapping around is post-processing.
        """
        if contributors < self.certain_shares:
            raise PrivacyError(f"{contributors} contributors cannot bring {self.certain_shares} certain shares")
        return math.ceil(_HEADROOM_DEVIATIONS * self.share_sigma * math.sqrt(contributors))
