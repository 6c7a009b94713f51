"""What a coordinator is given of chosen patients: updates made by the functions that a hospital runs.

Poisson sampling is switched off: the chosen patients are in the batch, and nobody else is. That is the worst case, and
what a coordinator with good luck or side knowledge has. A secure sum is exact, so that a coordinator sees the sum of
the hospitals' vectors and nothing of the vectors themselves; masks are left out here because they do not change a bit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.contribution import Task, update_vector
from client.training import gradient_sum
from fedmodels.data.dataset import Dataset
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import UsageError
from fedmodels.packing import gradient_packing, update_packing
from fedmodels.study import Hospital, Roster, Study
from simulations.auditing.patients import ATTACKED

Vector = npt.NDArray[np.floating]

_NO_CLIP = 1e12
_SMALL_STEP = 1e-3  # so that several local steps are about several gradients at one point


@dataclass(frozen=True, repr=False)
class Scene:
    """A round of a study about to begin. start: [D] float32, the model that the coordinator sent.

    All updates are [D] and have the direction of a gradient, whatever their length.
    """

    study: Study
    start: npt.NDArray[np.float32]

    def unprotected(self, patients: Dataset) -> Vector:
        """The sum of the patients' gradients: one hospital's update, or the secure sum of several hospitals'."""
        return gradient_sum(self.study, self.start, patients, _everyone(_NO_CLIP))

    def clipped(self, patients: Dataset) -> Vector:
        """The same with every patient's gradient clipped as the study says, and no noise."""
        return gradient_sum(self.study, self.start, patients, _everyone(self.study.privacy.clip))

    def protected(self, patients: Dataset) -> Vector:
        """The same clipped and with the study's own noise.

        Mode `distributed`: the opened sum, its patients dealt out to the hospitals, as the coordinator sees it together
        with as many colluding hospitals as the study plans for: only the shares of the noise that are certain are in
        it. Mode `local`: the update of one hospital, which adds all of the noise by itself. `UsageError` in mode
        `none`, which has none.
        """
        plan = plan_for(self.study)
        if plan is None:
            raise UsageError("a study without privacy adds no noise", where="privacy.mode", fix="choose another mode")
        whole = replace(plan, sampling_rate=1.0)
        return self._local(patients, whole) if plan.mode == "local" else self._distributed(patients, whole)

    def _local(self, patients: Dataset, plan: Plan) -> Vector:
        training = msgspec.structs.replace(
            self.study.training, optimiser="sgd", learning_rate=_SMALL_STEP, momentum=0.0, weight_decay=0.0
        )
        study, roster = msgspec.structs.replace(self.study, training=training), _roster(1)
        (name,) = roster.sizes
        vector = update_vector(study, roster, name, patients, plan, task=Task(1, 1), model=self.start)
        return -update_packing(study, roster, self.start.size).unpack(vector, (name,)).update

    def _distributed(self, patients: Dataset, plan: Plan) -> Vector:
        roster = _roster(self.study.federation.hospitals)
        task = Task(1, len(roster.hospital))
        packing = gradient_packing(self.study, roster, plan, self.start.size)
        honest = packing.mechanism(task.contributors).certain_shares
        total = np.zeros(self.start.size, np.uint32)
        for position, name in enumerate(list(roster.sizes)[:honest]):
            own = patients.take(np.arange(position, len(patients), honest))
            total += update_vector(self.study, roster, name, own, plan, task=task, model=self.start)
        return packing.lattice.decode(total)


def part(model: nn.Module, vector: Vector, name: str) -> Tensor:
    """One parameter's part of an update, float32 in the parameter's shape."""
    begin = 0
    for other, parameter in sorted(model.named_parameters()):
        end = begin + parameter.numel()
        if other == name:
            return torch.from_numpy(vector[begin:end].astype(np.float32)).view_as(parameter)
        begin = end
    raise UsageError(f"the model has no parameter `{name}`", where="audit view")


def _everyone(clip: float) -> Plan:
    """A plan under which `gradient_sum` takes every patient."""
    return Plan(
        sampling_rate=1.0, clip=clip, noise_multiplier=0.0, steps_per_release=1, releases=1, delta=0.5,
        mode="distributed",
    )  # fmt: skip


def _roster(hospitals: int) -> Roster:
    """Hospitals that each declare one patient: their keys are never used."""
    return Roster(tuple(Hospital(f"hospital-{i:05d}", f"{i:064x}", 1) for i in range(hospitals)))


Make = Callable[[Scene, Dataset], Vector]


def inversions(study: Study) -> Iterator[tuple[str, int, Make]]:
    """Name, number of patients and update of each gradient inversion."""
    hospitals = min(study.federation.hospitals, ATTACKED)
    yield "1 hospital, 1 patient", 1, Scene.unprotected
    yield f"1 hospital, {ATTACKED} patients", ATTACKED, Scene.unprotected
    yield f"secure sum, {hospitals} hospitals with 1 patient each", hospitals, Scene.unprotected
    yield "1 patient, clipped", 1, Scene.clipped
    if study.privacy.mode != "none":
        yield f"1 patient, clipped, {noise_of(study)}", 1, Scene.protected


def noise_of(study: Study) -> str:
    """Whose noise is in what the observer sees, in words."""
    return "noise of the sum" if study.privacy.mode == "distributed" else "noise of the hospital"
