"""What rides inside a contribution's vector. Everything that leaves a hospital in a round is in here, masked."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.evaluation.counts import Layout
from fedmodels.secagg import Lattice
from fedmodels.study import Roster, Study

_LOSS_UNITS = 1000  # lattice units of one unit of loss
_MAX_LOSS = 1000.0
_EXTRA_WORDS = 2
_BINS, _NOISY_BINS = 256, 32

Vector = npt.NDArray[np.uint32]


@dataclass(frozen=True, repr=False)
class MeanUpdate:
    """update: [D] weighted mean change of the model; loss: weighted mean training loss; clipped: coordinates that were
    beyond `federation.update_bound`, summed over hospitals."""

    update: npt.NDArray[np.float64]
    loss: float
    clipped: int


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


def evaluation_layout(study: Study) -> Layout:
    """Fine bins without noise; coarse ones with it, because every bin carries noise of its own."""
    return Layout(len(study.study.labels), _BINS if study.privacy.mode == "none" else _NOISY_BINS)


def pack_counts(counts: npt.NDArray[np.int64], roster: Roster) -> Vector:
    """Evaluation counts, noise included, as uint32."""
    return Lattice(1.0, len(roster.hospital)).encode_integers(counts)


def unpack_counts(total: Vector, roster: Roster) -> npt.NDArray[np.int64]:
    """The summed counts; with noise some may be negative."""
    return Lattice(1.0, len(roster.hospital)).decode_integers(total)
