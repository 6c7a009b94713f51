"""Ways of training with the same privacy, for comparison: pooled, distributed, local, and every hospital alone.

All go through the mechanisms of the product. Masking is left out: it does not change a sum by a single bit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt

from client.contribution import Task, update_vector
from client.training import gradient_sum, train_private
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.dp.lattice_noise import SUMMATION
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import UsageError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import MeanUpdate, gradient_packing, update_packing
from fedmodels.study import Hospital, Roster, Study
from server.optimiser import initial_state, server_step
from simulations.benchmarks.baselines import pool

Weights = npt.NDArray[np.float64]
Parts = Mapping[str, Dataset]
Contribute = Callable[[int, npt.NDArray[np.float32]], MeanUpdate]


def roster_of(parts: Parts) -> Roster:
    """A roster with the true number of training patients of each hospital as its declared size."""
    sizes = {name: len(np.unique(data.part(TRAIN).patients)) for name, data in sorted(parts.items())}
    return Roster(tuple(Hospital(name, f"{i:064x}", max(1, size)) for i, (name, size) in enumerate(sizes.items())))


def _plan(study: Study) -> Plan:
    plan = plan_for(study)
    if plan is None:
        raise UsageError("the study has no privacy to compare", where="privacy.mode")
    return plan


def _rounds(study: Study, update: Contribute) -> Weights:
    """The coordinator's side: a step on the update of every round, and the averaged model at the end."""
    state = initial_state(flatten(build_model(study, study.training.seed)).astype(np.float64), study)
    for number in range(1, study.training.rounds + 1):
        state = server_step(state, update(number, state.model.astype(np.float32)), study)
    return state.average


def train_distributed(study: Study, parts: Parts) -> Weights:
    """Mode `distributed` over `parts`: the lattice, every hospital's own noise share, the sum modulo 2^32."""
    plan, roster = _plan(study), roster_of(parts)
    data, names = {name: part.part(TRAIN) for name, part in parts.items()}, tuple(roster.sizes)

    def update(number: int, model: npt.NDArray[np.float32]) -> MeanUpdate:
        task, total = Task(number, len(names)), np.zeros(model.size, np.uint32)
        for name in names:
            total += update_vector(study, roster, name, data[name], plan, task=task, model=model)
        return gradient_packing(study, roster, plan, model.size).unpack(total, names)

    return _rounds(study, update)


def train_pooled_private(study: Study, parts: Parts) -> Weights:
    """Private SGD (Abadi et al. 2016) on everybody's records in one place, with a study of mode `distributed`."""
    plan, data = _plan(study), pool(parts, TRAIN)
    expected, source = plan.expected_batch(sum(roster_of(parts).sizes.values())), SecureSource()

    def update(_: int, model: npt.NDArray[np.float32]) -> MeanUpdate:
        deviation = plan.noise_multiplier * plan.clip * float(1 + SUMMATION)
        noisy = gradient_sum(study, model, data, plan) + deviation * source.normal(model.size)
        return MeanUpdate(-noisy / expected, noise_norm=deviation * math.sqrt(model.size) / expected)

    return _rounds(study, update)


def train_local(study: Study, parts: Parts) -> Weights:
    """Mode `local` over `parts`: local private steps, weighted averages."""
    return train_averaged(study, parts, _plan(study))


def train_averaged(study: Study, parts: Parts, plan: Plan | None) -> Weights:
    """Local steps at each of `parts` and weighted averages: mode `local`, or mode `none` where there is no plan."""
    roster = roster_of(parts)
    data, names = {name: part.part(TRAIN) for name, part in parts.items()}, tuple(roster.sizes)

    def update(number: int, model: npt.NDArray[np.float32]) -> MeanUpdate:
        task, packing = Task(number, len(names)), update_packing(study, roster, model.size)
        total = np.zeros(packing.words, np.uint32)
        for name in names:
            total += update_vector(study, roster, name, data[name], plan, task=task, model=model)
        return packing.unpack(total, names)

    return _rounds(study, update)


def train_alone(study: Study, data: Dataset) -> Weights:
    """One hospital by itself, with a study of mode `local`: all of its steps in one go."""
    plan, train = _plan(study), data.part(TRAIN)
    whole = replace(plan, steps_per_release=study.training.rounds * plan.steps_per_release)
    once = msgspec.structs.replace(study, training=msgspec.structs.replace(study.training, rounds=1))
    start = flatten(build_model(once, study.training.seed))
    update = train_private(once, start, train, whole, max(1, len(np.unique(train.patients))))
    return (start + update.delta).astype(np.float64)
