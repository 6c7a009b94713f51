"""What a hospital contributes, before it is masked: an update or a noisy gradient, or noisy evaluation counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from client.ownlayers import OwnLayers
from client.training import LocalUpdate, gradient_sum, train_plain, train_private
from fedmodels.data.dataset import Dataset
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource, discrete_laplace
from fedmodels.errors import PrivacyError
from fedmodels.evaluation.calibration import Working
from fedmodels.evaluation.counts import first_records, histogram
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.models.batches import predict
from fedmodels.models.registry import model_with
from fedmodels.packing import evaluation_layout, gradient_packing, pack_counts, update_packing
from fedmodels.study import Roster, Study

Model = npt.NDArray[np.float32]
Vector = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What a hospital contributes to: a round and its number of contributors.

    own: the layers that stay here, where the study has such. canaries: of an audit by the hospital.
    """

    round: int
    contributors: int
    canaries: Canaries | None = None
    own: OwnLayers | None = None


def update_vector(
    study: Study, roster: Roster, hospital: str, data: Dataset, plan: Plan | None, *, task: Task, model: Model
) -> Vector:
    """The encoded result of this round's training on the training records `data`.

    In mode `distributed` it is one gradient with this hospital's share of the noise, else the change of the model.
    """
    canaries = task.canaries
    if canaries and (plan is None or task.own):
        what = "mode `none` promises nothing that could be audited" if plan is None else "own layers are not audited"
        raise PrivacyError(what, where="privacy.mode" if plan is None else "training.personal")
    if plan is None:
        position = list(roster.sizes).index(hospital)
        update = _change(
            task, model, lambda whole: train_plain(study, whole, data, (study.training.seed, task.round, position))
        )
        return update_packing(study, roster, model.size).pack(hospital, update.delta, update.loss)
    if plan.mode == "distributed":
        gradient = gradient_sum(study, model, data, plan, canaries)
        packing = gradient_packing(study, roster, plan, gradient.size)
        packing.check_room(task.contributors)
        vector = packing.pack(gradient, task.contributors, SecureSource())
    else:
        size = roster.sizes[hospital]
        update = _change(task, model, lambda whole: train_private(study, whole, data, plan, size, canaries))
        vector = update_packing(study, roster, update.delta.size).pack(hospital, update.delta, update.loss)
    if canaries:
        canaries.contributed.append(vector.copy())  # it is masked in place
    return vector


def _change(task: Task, model: Model, train: Callable[[Model], LocalUpdate]) -> LocalUpdate:
    """What `train` makes of the model, without the layers that stay here."""
    if not task.own:
        return train(model)
    start = task.own.whole(model)
    update = train(start)
    return replace(update, delta=task.own.keep(start, update.delta))


def own_results(study: Study, data: Dataset, model: Model) -> tuple[Counts, dict[str, float]]:
    """(evaluation counts, exact metrics) of the test records `data`, one per patient, without noise: for this hospital.

    A prediction that is not a number counts as an undecided one, so that no record of a patient makes this fail.
    """
    net = model_with(study, model)
    layout, first = evaluation_layout(study), data.take(first_records(data.patients))
    if not len(first):
        return np.zeros(layout.length, np.int64), {}
    probabilities = _finite(predict(net, first, study.input))
    working = Working(specificity=study.evaluation.specificity)
    return (
        histogram(probabilities, first.y, first.patients, layout),
        exact_metrics(probabilities, first.y, working),
    )


def counts_vector(study: Study, roster: Roster, counts: Counts) -> Vector:
    """A hospital's evaluation counts, with discrete Laplace noise unless the mode is `none`.

    Guarantee: (evaluation_epsilon, 0)-DP for add/remove of one patient, against every observer; the counts are exact
    integers and so is the noise.
    """
    if study.privacy.mode != "none":
        layout = evaluation_layout(study)
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
