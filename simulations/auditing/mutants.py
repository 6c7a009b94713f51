"""Broken implementations, for the self-test of the audit: each breaks one rule of docs/privacy.md on purpose.

A mutant replaces named functions of the product inside a `with` block, in this process alone. Most of them leave the
model as accurate as before, or make it more accurate, and none raises an error: only an audit can tell.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from client import contribution, training
from client.folder import declared_size
from fedmodels import packing
from fedmodels.data.dataset import Dataset
from fedmodels.dp import gradients
from fedmodels.dp.accounting import SampledGaussian
from fedmodels.dp.lattice_noise import LatticeMechanism
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, UniformSource

Modes = tuple[str, ...]
_BOTH: Modes = ("distributed", "local")
_EVERY: Modes = ("distributed", "local", "recover")
_RETRY: Modes = ("distributed",)
_SUMS: Modes = ("distributed", "recover")
_RECOVER: Modes = ("recover",)

_add_normal, _share, _pack = SecureSource.add_normal, LatticeMechanism.share, packing.GradientPacking.pack
_event, _add_noise = Plan.event, gradients.PrivateOptimizer.add_noise
_gradient_sum: Any = training.gradient_sum
_train_private: Any = training.train_private


@dataclass(frozen=True)
class Mutant:
    """modes: the kinds of run (`self_test.MODES`) that it is tried in."""

    name: str
    about: str
    modes: Modes
    applied: Callable[[], AbstractContextManager[object]]


def _replaced(*places: tuple[Any, str, Any]) -> Callable[[], AbstractContextManager[object]]:
    """A context in which each (owner, name) is the third thing."""

    @contextmanager
    def enter() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, new in places:
                stack.enter_context(mock.patch.object(owner, name, new))
            yield

    return enter


def _less_noise(factor: float) -> Callable[[], AbstractContextManager[object]]:
    def share(self: LatticeMechanism, source: SecureSource) -> npt.NDArray[np.int64]:
        return np.asarray(np.rint(_share(self, source) * factor), np.int64)

    def add_normal(self: SecureSource, target: torch.Tensor, deviation: float, scale: float) -> None:
        _add_normal(self, target, deviation * factor, scale)

    return _replaced((LatticeMechanism, "share", share), (SecureSource, "add_normal", add_normal))


def _shares_of_all() -> Callable[[], AbstractContextManager[object]]:
    """sigma / n where sigma / sqrt(m) is needed: as if deviations added up, not variances."""

    def share_sigma(self: LatticeMechanism) -> float:
        return self.total_sigma / (self.certain_shares + 1)

    return _replaced((LatticeMechanism, "share_sigma", property(share_sigma)))


def _no_clip() -> Callable[[], AbstractContextManager[object]]:
    return _replaced((gradients, "clip_factors", lambda norms, clip: torch.ones_like(norms)))  # noqa: ARG005


class _Shuffled(PoissonSampler):
    """Everybody once per epoch, in batches of one size, over all rounds of a run."""

    queues: dict[bytes, list[int]]

    def __init__(
        self, patients: npt.NDArray[np.str_], rate: float, shares: npt.NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(patients, rate, shares)
        self._people = len(np.unique(patients))
        self._key, self._size = hashlib.sha256(patients.tobytes()).digest(), math.ceil(rate * self._people)

    def draw(self, source: UniformSource) -> npt.NDArray[np.int64]:
        queue = self.queues.setdefault(self._key, [])
        if len(queue) < self._size:
            queue += np.argsort(source.uniform(self._people)).tolist()
        batch, queue[: self._size] = queue[: self._size], []
        return np.array(sorted(set(batch)), np.int64)


def _shuffled() -> AbstractContextManager[object]:
    fresh = type("Shuffled", (_Shuffled,), {"queues": {}})
    return _replaced((training, "PoissonSampler", fresh))()


def _uncompensated_dropout() -> AbstractContextManager[object]:
    """Shares as planned for everybody, also where a round runs again without the missing."""
    first: list[int] = []

    def shares(roster: int, colluders: int) -> int:
        first.append(roster)
        return max(first) - colluders

    return _replaced((packing, "certain_shares_retry", shares))()


def _believed_dropouts() -> Callable[[], AbstractContextManager[object]]:
    """Shares as if every sum were over `threshold` hospitals, which only an honest coordinator sees to."""

    def shares(hospitals: int, threshold: int, colluders: int) -> int:  # noqa: ARG001 - as the function replaced
        return threshold - colluders

    return _replaced((packing, "certain_shares_recover", shares))


def _one_seed() -> AbstractContextManager[object]:
    """A new seed for each round, the same for all hospitals."""
    left: list[bytes] = []

    def pack(
        self: packing.GradientPacking, gradient: npt.NDArray[np.float64], contributors: int, source: SecureSource
    ) -> npt.NDArray[np.uint32]:
        if not left:
            left.extend([source.bytes(32)] * contributors)
        return _pack(self, gradient, contributors, SecureSource(left.pop()))

    return _replaced((packing.GradientPacking, "pack", pack))()


def _same_noise() -> AbstractContextManager[object]:
    """Every hospital has its own seed, and starts with it again in every round."""

    class Constant(SecureSource):
        def __init__(self) -> None:
            super().__init__(bytes(32))

    return _replaced((contribution, "SecureSource", Constant))()


def _private_divisor() -> Callable[[], AbstractContextManager[object]]:
    def gradient_sum(*given: Any) -> npt.NDArray[np.float64]:  # noqa: ANN401 - as the function replaced
        data: Dataset = given[2]
        patients = max(1, len(np.unique(data.patients)))
        total: npt.NDArray[np.float64] = _gradient_sum(*given) * (declared_size(patients) / patients)
        return total

    def train_private(*given: Any) -> training.LocalUpdate:  # noqa: ANN401
        data: Dataset = given[2]
        update: training.LocalUpdate = _train_private(*given[:4], max(1, len(np.unique(data.patients))), *given[5:])
        return update

    return _replaced((contribution, "gradient_sum", gradient_sum), (contribution, "train_private", train_private))


def _fewer_steps() -> Callable[[], AbstractContextManager[object]]:
    """Half of the steps on the ledger, rounded down."""

    def event(self: Plan, releases: int) -> SampledGaussian:
        whole = _event(self, releases)
        return SampledGaussian(whole.sampling_rate, whole.noise_multiplier, whole.steps // 2)

    return _replaced((Plan, "event", event))


def _special_canary() -> Callable[[], AbstractContextManager[object]]:
    """One coordinate, that of a single canary, gets no noise."""

    def share(self: LatticeMechanism, source: SecureSource) -> npt.NDArray[np.int64]:
        noise = _share(self, source)
        noise[-1] = 0
        return noise

    def add_noise(self: gradients.PrivateOptimizer) -> None:
        canaries = self.params[0]  # the weights that are in no layer
        total = self._book.sums.get(canaries, torch.zeros_like(canaries))
        last = float(total[-1]) / self.expected_batch_size
        _add_noise(self)
        canaries.grad[-1] = last

    return _replaced((LatticeMechanism, "share", share), (gradients.PrivateOptimizer, "add_noise", add_noise))


HONEST = Mutant("honest", "the product as it is", _EVERY, nullcontext)
MUTANTS = (
    Mutant("no noise", "no noise is added", _EVERY, _less_noise(0.0)),
    Mutant("half noise", "the noise is half as large", _EVERY, _less_noise(0.5)),
    Mutant("share sigma/n", "shares whose deviations, not variances, add up", _SUMS, _shares_of_all()),
    Mutant("no clip", "gradients are not clipped", _BOTH, _no_clip()),
    Mutant("shuffled batches", "epochs of fixed batches for Poisson sampling", _BOTH, _shuffled),
    Mutant("uncompensated dropout", "shares stay small after a dropout", _RETRY, _uncompensated_dropout),
    Mutant("dropouts believed", "shares are enough unless the coordinator lies about dropouts", _RECOVER,
           _believed_dropouts()),
    Mutant("one seed for all", "all hospitals draw the same noise", _SUMS, _one_seed),
    Mutant("same noise every round", "a constant seed", _SUMS, _same_noise),
    Mutant("divisor from private N", "the true number of patients normalises", _BOTH, _private_divisor()),
    Mutant("steps under-counted", "the ledger counts half of the steps", _BOTH, _fewer_steps()),
    Mutant("one canary special-cased", "one canary's coordinate has no noise", _BOTH, _special_canary()),
)  # fmt: skip
