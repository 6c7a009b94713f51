"""Measures the public constants of a hospital's contribution without any chance: rate, clip, divisor.

Random numbers are held fixed from outside: every patient is drawn for certain or certainly not (uniform numbers just
below or just above the public rate), and noise has a constant key. What one canary changes is then exactly the clip
over the divisor at the public rate, whatever the private number of patients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np

from client import contribution, training
from client.contribution import Task, update_vector
from fedmodels.audit.design import Floats
from fedmodels.audit.evidence import step_weights
from fedmodels.data.dataset import Dataset
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import gradient_packing, update_packing
from fedmodels.study import Hospital, Roster, Study

_SIZES = (320, 321)  # private numbers of patients
_DECLARED = 320
_MARGIN = 1e-9


def movements(study: Study, plan: Plan, patient: Dataset) -> Floats:
    """[2, 2] for each private size what a canary moves a contribution by, in clips: drawn for certain, certainly not.

    patient: one record, as often as there are to be patients. It has no influence on the canary's coordinate.
    """
    found = []
    for size in _SIZES:
        names = np.char.add("patient-", np.arange(size).astype(str))
        data = replace(patient.take(np.zeros(size, np.int64)), patients=names)
        without = _contribution(study, plan, data, None)
        rates = (plan.sampling_rate - _MARGIN, plan.sampling_rate + _MARGIN)
        found.append([(_contribution(study, plan, data, u) - without) for u in rates])
    return np.array(found)


def _contribution(study: Study, plan: Plan, data: Dataset, uniform: float | None) -> float:
    """The trace in the canary's coordinate; uniform: what all uniform numbers are, None without the canary inside."""
    model = flatten(build_model(study))
    roster = Roster(tuple(Hospital(f"h{i}", f"{i:064x}", _DECLARED) for i in range(study.federation.hospitals)))
    inside = uniform is not None
    canaries = Canaries(
        np.array(["canary"] if inside else [], np.str_),
        np.zeros(int(inside), np.int64),
        np.full(int(inside), study.privacy.clip, np.float32),
        np.zeros((0, model.size), np.float32),
        1,
    )
    task = Task(1, study.federation.hospitals, canaries)
    with _fixed(1.0 if uniform is None else uniform):
        vector = update_vector(study, roster, "h0", data, plan, task=task, model=model)
    if plan.mode == "distributed":
        return float(gradient_packing(study, roster, plan, model.size + 1).lattice.decode(vector)[-1]) / plan.clip
    change = float(update_packing(study, roster, model.size + 1).unpack(vector, ("h0",)).update[-1])
    weights = step_weights(study.training, plan)
    divisor = plan.expected_batch(_DECLARED)
    return -change * divisor / study.training.learning_rate / float(weights.sum()) / plan.clip


@contextmanager
def _fixed(uniform: float) -> Iterator[None]:
    """Sources at the hospital's border give this uniform number always, and noise from a constant key."""

    class Fixed(SecureSource):
        def __init__(self) -> None:
            super().__init__(bytes(32))

        def uniform(self, count: int) -> Floats:
            return np.full(count, uniform)

    with mock.patch.object(training, "SecureSource", Fixed), mock.patch.object(contribution, "SecureSource", Fixed):
        yield
