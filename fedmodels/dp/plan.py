"""The privacy plan of a study: mechanism and accounting event in one frozen value.

Whoever trains takes sampling rate, clip, noise and divisor from the plan; whoever charges a ledger takes the event from
the same plan; neither can be had without the other. Everything in it follows from the public study file alone, but for
the public declared size that a divisor is made from.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fedmodels.dp.accounting import SampledGaussian, calibrate, epsilon_upper
from fedmodels.errors import PrivacyError
from fedmodels.study import Study


@dataclass(frozen=True)
class Plan:
    """Private training of one study, seen from one hospital.

    Guarantee: `releases` training uploads of a hospital are together (epsilon, delta)-DP for add/remove of one
    patient's whole record. Mode `local`: each hospital alone carries the full noise of every step, and whatever leaves
    it is private, against every observer. Mode `distributed`: each carries a share, and the sums that open are private,
    against the coordinator and `max_colluding` hospitals (see `lattice_noise.LatticeMechanism`).

    clip: bound C on the L2 norm of one patient's gradient; noise_multiplier: standard deviation of the noise that is
    certain, in units of the sensitivity; releases: uploads, planned retries included; steps_per_release: DP-SGD steps
    between two uploads, 1 in mode `distributed`. unit, adjacency: what sampler, clip and accountant are made for, and
    the only ones there are; `PrivacyError` for any other.
    """

    sampling_rate: float
    clip: float
    noise_multiplier: float
    steps_per_release: int
    releases: int
    delta: float
    mode: Literal["local", "distributed"] = "local"
    unit: Literal["patient"] = "patient"
    adjacency: Literal["add-remove"] = "add-remove"

    def __post_init__(self) -> None:
        if (self.unit, self.adjacency) != ("patient", "add-remove"):
            raise PrivacyError(
                f"nothing here is accounted for with unit {self.unit!r} and adjacency {self.adjacency!r}",
                where="privacy",
                fix='take unit "patient" and adjacency "add-remove"; `adjacency` has bounds for replaced patients',
            )

    def expected_batch(self, patients: int) -> float:
        """The divisor of a mean gradient: q times a public number of patients, one hospital's or several together.

        The true number of patients must be used for nothing: a divisor by it tells it, whatever epsilon says.
        """
        if patients < 1:
            raise PrivacyError(f"{patients} patients are no public size to divide by", fix="declare at least 1")
        return self.sampling_rate * patients

    def event(self, releases: int) -> SampledGaussian:
        """The accounting event of this many uploads of training rounds."""
        return SampledGaussian(self.sampling_rate, self.noise_multiplier, releases * self.steps_per_release)

    def epsilon(self, releases: int) -> float:
        """Epsilon to charge for this many uploads, at the plan's delta."""
        return epsilon_upper(self.event(releases), self.delta)


def plan_for(study: Study) -> Plan | None:
    """The plan that the study's privacy section asks for; None in mode `none`, where nothing is promised.

    Noise is calibrated for the planned rounds plus all retries that the study allows, so that a retry never runs into
    the budget: a study without retries ends a little below its epsilon.
    """
    training, privacy = study.training, study.privacy
    if privacy.mode == "none":
        return None
    releases = training.rounds + study.federation.max_retries
    noise = _noise(training.batch_rate, releases * training.local_steps, privacy.epsilon, privacy.delta)
    return Plan(
        training.batch_rate, privacy.clip, noise, training.local_steps, releases, privacy.delta, privacy.mode,
        privacy.unit, privacy.adjacency,
    )  # fmt: skip


_noise = lru_cache(maxsize=64)(calibrate)
