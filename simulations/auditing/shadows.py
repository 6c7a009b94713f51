"""Shadow models for `fedmodels audit membership`: the audited study, trained again on random halves of the patients."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import nn

from fedmodels.audit.membership import Flags, Floats, confidence
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.dp.plan import plan_for
from fedmodels.models.batches import predict
from fedmodels.models.registry import model_with
from fedmodels.study import Study
from fedmodels.study_input import Input
from simulations.benchmarks.private_training import train_averaged, train_pooled_private


@dataclass(frozen=True, repr=False)
class Patients:
    """All patients of some sites, in the order of the sites and within one by name. Everything else is in that order.

    site: [n] names; label: [n] index of a patient's first label; member: [n] whether they were trained on.
    """

    records: Mapping[str, Dataset]
    site: npt.NDArray[np.str_]
    label: npt.NDArray[np.int64]
    member: Flags

    @classmethod
    def of(cls, records: Mapping[str, Dataset]) -> "Patients":
        firsts = {name: np.unique(data.patients, return_index=True)[1] for name, data in records.items()}
        return cls(
            records,
            np.concatenate([np.full(len(rows), name) for name, rows in firsts.items()]),
            np.concatenate([records[name].y[rows] for name, rows in firsts.items()]),
            np.concatenate([records[name].split[rows] == TRAIN for name, rows in firsts.items()]),
        )

    def __len__(self) -> int:
        return len(self.member)

    def confidences(self, model: nn.Module, input_: Input) -> Floats:
        """[n] the model's confidence in the true labels, averaged over the records of each patient."""
        parts = []
        for data in self.records.values():
            _, owner = np.unique(data.patients, return_inverse=True)
            values = confidence(predict(model, data, input_), data.y)
            parts.append(np.bincount(owner, weights=values) / np.bincount(owner))
        return np.concatenate(parts)

    def training_sets(self, chosen: Flags) -> dict[str, Dataset]:
        """The records of the chosen patients by site, all of them for training; a site without any is left out."""
        sets, begin = {}, 0
        for name, data in self.records.items():
            _, owner = np.unique(data.patients, return_inverse=True)
            count = int(owner.max()) + 1
            own = data.take(np.flatnonzero(chosen[begin : begin + count][owner]))
            if len(own):
                sets[name] = replace(own, split=np.full_like(own.split, TRAIN))
            begin += count
        return sets


def train_shadow(study: Study, records: Mapping[str, Dataset]) -> nn.Module:
    """The study's model as a run on these training sets would leave it, from the same public initial weights.

    Mode `distributed` is trained on the pooled records, with the noise that the hospitals' shares add up to.
    """
    plan = plan_for(study)
    if plan is not None and plan.mode == "distributed":
        weights = train_pooled_private(study, records)
    else:
        weights = train_averaged(study, records, plan)
    model = model_with(study, weights)
    return model.eval()
