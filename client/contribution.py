"""What a hospital contributes, before it is masked: an update or a noisy gradient, or noisy evaluation counts."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from client.training import gradient_sum, train_plain, train_private
from fedmodels.data.dataset import Dataset
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource, discrete_laplace
from fedmodels.errors import PrivacyError
from fedmodels.evaluation.counts import histogram
from fedmodels.models.batches import predict
from fedmodels.models.registry import build_model
from fedmodels.models.weights import unflatten
from fedmodels.packing import evaluation_layout, gradient_packing, pack_counts, update_packing
from fedmodels.study import Roster, Study

Model = npt.NDArray[np.float32]
Vector = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Task:
    """What a hospital contributes to: a round and its number of contributors. canaries: of an audit by the hospital."""

    round: int
    contributors: int
    canaries: Canaries | None = None


def update_vector(
    study: Study, roster: Roster, hospital: str, data: Dataset, plan: Plan | None, *, task: Task, model: Model
) -> Vector:
    """The encoded result of this round's training on the training records `data`.

    In mode `distributed` it is one gradient with this hospital's share of the noise, else the change of the model.
    """
    canaries = task.canaries
    if plan is None:
        if canaries:
            raise PrivacyError("mode `none` promises nothing that could be audited", where="privacy.mode")
        position = list(roster.sizes).index(hospital)
        update = train_plain(study, model, data, (study.training.seed, task.round, position))
        return update_packing(study, roster, model.size).pack(hospital, update.delta, update.loss)
    if plan.mode == "distributed":
        gradient = gradient_sum(study, model, data, plan, canaries)
        packing = gradient_packing(study, roster, plan, gradient.size)
        vector = packing.pack(gradient, task.contributors, SecureSource())
    else:
        update = train_private(study, model, data, plan, roster.sizes[hospital], canaries)
        vector = update_packing(study, roster, update.delta.size).pack(hospital, update.delta, update.loss)
    if canaries:
        canaries.contributed.append(vector.copy())  # it is masked in place
    return vector


def counts_vector(study: Study, roster: Roster, data: Dataset, model: Model) -> Vector:
    """Evaluation counts of the test records `data`, with discrete Laplace noise unless the mode is `none`.

    Guarantee: (evaluation_epsilon, 0)-DP for add/remove of one patient, against every observer; the counts are exact
    integers and so is the noise.
    """
    net = build_model(study)
    unflatten(net, model)
    layout = evaluation_layout(study)
    counts = np.zeros(layout.length, np.int64)
    if len(data):
        counts += histogram(_finite(predict(net, data, study.input)), data.y, data.patients, layout)
    if study.privacy.mode != "none":
        scale = layout.sensitivity / Fraction(str(study.privacy.evaluation_epsilon))
        counts = counts + discrete_laplace(layout.length, scale, SecureSource())
    return pack_counts(counts, roster)


def _finite(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Predictions that are not numbers become undecided ones.

    A model can be made to overflow for chosen patients only. An error here would tell the coordinator, without noise,
    that there is such a patient.
    """
    broken = ~np.isfinite(probabilities).all(axis=1)
    probabilities[broken] = 1.0 / probabilities.shape[1]
    return probabilities
