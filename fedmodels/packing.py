"""What rides inside a contribution's vector. Everything that leaves a hospital in a round is in here, masked."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmodels.dp.lattice_noise import LatticeMechanism, certain_shares_recover, certain_shares_retry
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import LocalProtocolError
from fedmodels.evaluation.counts import Layout
from fedmodels.evaluation.noise import Noise
from fedmodels.secagg import Lattice
from fedmodels.study import Roster, Study

_LOSS_UNITS = 1000  # lattice units of one unit of loss
_MAX_LOSS = 1000.0
_EXTRA_WORDS = 2
_LATTICE_WORDS = 1 << 31
_FINENESS = 100  # times sqrt(D) lattice units in a clip, where noise does not fill the lattice
_NOISE_DEVIATIONS = 13  # of the summed noise that fit beside the sums; more wrap around, at a cost in accuracy alone
_BINS, _NOISY_BINS = 256, 32

Vector = npt.NDArray[np.uint32]


@dataclass(frozen=True, repr=False)
class MeanUpdate:
    """update: [D] weighted mean change of the model, or minus the mean gradient; loss: weighted mean training loss;
    clipped: coordinates that were beyond `federation.update_bound`, summed over hospitals; noise_norm: the expected L2
    norm of the noise in the update, 0 where it is part of local training."""

    update: npt.NDArray[np.float64]
    loss: float = 0.0
    clipped: int = 0
    noise_norm: float = 0.0


@dataclass(frozen=True)
class UpdatePacking:
    """A training contribution of D parameters: [D] weighted update | 1 weighted loss | 1 count of clipped coordinates.

    Weights are the declared sizes of the roster divided by the largest one: public, in (0, 1].
    """

    parameters: int
    bound: float
    sizes: dict[str, int]

    @property
    def words(self) -> int:
        return self.parameters + _EXTRA_WORDS

    @property
    def _lattice(self) -> Lattice:
        return Lattice(self.bound, len(self.sizes))

    def weight(self, hospital: str) -> float:
        return self.sizes[hospital] / max(self.sizes.values())

    def pack(self, hospital: str, delta: npt.NDArray[np.float32], loss: float) -> Vector:
        """[D + 2] uint32; NaN or infinite updates raise `LocalProtocolError`."""
        weight = self.weight(hospital)
        encoded, clipped = self._lattice.encode(delta * np.float64(weight))
        extra = np.array([round(min(max(loss, 0.0), _MAX_LOSS) * weight * _LOSS_UNITS), clipped], np.int64)
        return np.concatenate([encoded, self._lattice.encode_integers(extra)])

    def unpack(self, total: Vector, hospitals: tuple[str, ...]) -> MeanUpdate:
        """The weighted means over `hospitals` from the sum of their vectors."""
        weight = sum(self.weight(hospital) for hospital in hospitals)
        loss, clipped = self._lattice.decode_integers(total[self.parameters :])
        update = self._lattice.decode(total[: self.parameters]) / weight
        return MeanUpdate(update, float(loss) / (_LOSS_UNITS * weight), int(clipped))


def update_packing(study: Study, roster: Roster, parameters: int) -> UpdatePacking:
    return UpdatePacking(parameters, study.federation.update_bound, roster.sizes)


@dataclass(frozen=True, repr=False)
class GradientPacking:
    """A training contribution in mode `distributed`: [D] sum of the batch's clipped gradients plus a noise share.

    Nothing else is in it: a loss or a count would be a release without noise. All constants are public. No sum within
    six standard deviations of the largest hospital's expected batch is clipped, unless that would leave so coarse a
    lattice that rounding costs more than about 1% of sensitivity.
    """

    parameters: int
    plan: Plan
    sizes: dict[str, int]
    max_colluding: int
    min_contributors: int
    threshold: int | None  # of `recover` rounds

    @property
    def words(self) -> int:
        return self.parameters

    @property
    def _largest(self) -> float:
        """The largest sum of a hospital that there is room for beside the noise, in clips."""
        expected = self.plan.expected_batch(max(self.sizes.values()))
        return min(
            expected + 6.0 * math.sqrt(expected) + 10.0,
            _LATTICE_WORDS / (2 * len(self.sizes) * _FINENESS * math.sqrt(self.parameters)),
        )

    @cached_property
    def lattice(self) -> Lattice:
        hospitals = len(self.sizes)
        share = self.plan.noise_multiplier / math.sqrt(self._fewest_shares)
        noise = _NOISE_DEVIATIONS * share * math.sqrt(hospitals)
        return Lattice(self.plan.clip * (self._largest + noise / hospitals), hospitals)

    @property
    def _fewest_shares(self) -> int:
        return self._certain_shares(self.min_contributors)

    def _certain_shares(self, contributors: int) -> int:
        if self.threshold is None:
            return certain_shares_retry(contributors, self.max_colluding)
        return certain_shares_recover(len(self.sizes), self.threshold, self.max_colluding)

    def mechanism(self, contributors: int) -> LatticeMechanism:
        """The noise of a session of this many contributors, with its accounting event."""
        plan, shares = self.plan, self._certain_shares(contributors)
        return LatticeMechanism(
            plan.sampling_rate, plan.clip, plan.noise_multiplier, self.parameters, self.lattice.scale, shares
        )

    def check_room(self, contributors: int) -> None:
        """Raise `LocalProtocolError` where a sum of this many hospitals' vectors could wrap around.

        Not while every hospital's sum is within `_largest` clips and their noise within `LatticeMechanism.headroom`.
        The lattice is made so that there is room for both, for any plan; this is the contributor's own check of that.
        """
        headroom = self.mechanism(contributors).headroom(contributors)
        if Lattice(self.plan.clip * self._largest, contributors, headroom).scale < self.lattice.scale:
            raise LocalProtocolError(
                f"the gradients and the noise of {contributors} hospitals could make their sum wrap around",
                where="encoding",
                fix="plan less noise or a smaller batch rate, or let more hospitals take part",
            )

    def pack(self, gradient: npt.NDArray[np.float64], contributors: int, source: SecureSource) -> Vector:
        """[D] uint32: the encoded sum of clipped gradients and this hospital's share of the noise."""
        encoded, _ = self.lattice.encode(gradient)
        return encoded + self.mechanism(contributors).share(source).astype(np.int32).view(np.uint32)

    def unpack(self, total: Vector, hospitals: tuple[str, ...]) -> MeanUpdate:
        """Minus the mean gradient: the sum divided by the public expected batch of these hospitals together."""
        expected = self.plan.expected_batch(sum(self.sizes[hospital] for hospital in hospitals))
        deviation = self.mechanism(len(hospitals)).share_sigma * math.sqrt(len(hospitals)) / self.lattice.scale
        noise_norm = deviation * math.sqrt(self.parameters) / expected
        return MeanUpdate(-self.lattice.decode(total) / expected, noise_norm=noise_norm)


def gradient_packing(study: Study, roster: Roster, plan: Plan, parameters: int) -> GradientPacking:
    federation = study.federation
    return GradientPacking(
        parameters,
        plan,
        roster.sizes,
        study.privacy.max_colluding,
        federation.min_contributors,
        study.threshold if federation.on_dropout == "recover" else None,
    )


def evaluation_layout(study: Study) -> Layout:
    """Fine bins without noise; coarse ones with it, because every bin carries noise of its own."""
    return Layout(len(study.study.labels), _BINS if study.privacy.mode == "none" else _NOISY_BINS)


def evaluation_noise(study: Study, hospitals: int) -> Noise:
    """The noise in the evaluation counts of this many hospitals together, see `client.contribution`."""
    if study.privacy.mode == "none":
        return Noise()
    return Noise(hospitals, evaluation_layout(study).sensitivity / study.privacy.evaluation_epsilon)


def pack_counts(counts: npt.NDArray[np.int64], roster: Roster) -> Vector:
    """Evaluation counts, noise included, as uint32."""
    return Lattice(1.0, len(roster.hospital)).encode_integers(counts)


def unpack_counts(total: Vector, roster: Roster) -> npt.NDArray[np.int64]:
    """The summed counts; with noise some may be negative."""
    return Lattice(1.0, len(roster.hospital)).decode_integers(total)
