"""One hospital's local contribution to a training round: sample, train, and return the change of the model.

With a plan every step is one DP-SGD step (Abadi et al. 2016) on a Poisson sample of patients; without one the same
sampler feeds plain steps, repeatable by seed. Model and batches are on `fedmodels.models.device.device()`; samples are
drawn and images are changed on the CPU, and what is returned is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedmodels.data.dataset import Dataset
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.clipping.entries import MOST_IN_SINGLE
from fedmodels.dp.clipping.memory import physical_batch
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import PrivateOptimizer
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, SeededSource, passes
from fedmodels.models.augment import augmented
from fedmodels.models.batches import to_tensors
from fedmodels.models.device import device_of, image_format
from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import model_with
from fedmodels.models.weights import flatten
from fedmodels.study import Study, Training
from fedmodels.study_input import ImageInput

_PLAIN_BATCH = 512  # records per forward pass where no per-sample gradients are held


@dataclass(frozen=True, repr=False)
class LocalUpdate:
    """delta: [D] float32, local minus global model; loss: mean training loss, 0 where privacy forbids to tell it."""

    delta: npt.NDArray[np.float32]
    loss: float


class _Private:
    """Private steps of one hospital: the model as they need it, Poisson samples, sums of clipped gradients."""

    def __init__(
        self,
        study: Study,
        start: npt.NDArray[np.float32],
        data: Dataset,
        plan: Plan,
        divisor: float,
        canaries: Canaries | None,
    ) -> None:
        self._study, self._data, self._source, self._canaries = study, data, SecureSource(), canaries
        model = _laid_out(model_with(study, start), study)
        self._prepared = prepared = prepare(model, study.training.copies)
        one = _one_patient(study, data, device_of(prepared.model))
        self._at_once = physical_batch(prepared, *one)
        if canaries:
            canaries.attach(prepared)
        self.model = prepared.model.train()
        self.optimizer = PrivateOptimizer(prepared, _optimizer(self.model, study.training), plan, divisor, self._source)
        patients = canaries.among(data.patients) if canaries else data.patients
        self._sampler = PoissonSampler(patients, plan.sampling_rate, _shares(study, data, len(patients)))

    def accumulate_batch(self) -> Iterator[None]:
        """Add up the clipped gradients of one sample of patients; yields after each part.

        Which part a patient is in does not depend on who else is drawn, see `sampling.parts`.
        """
        drawn = self._sampler.draw(self._source)
        records = self._study.training.records
        real = drawn[drawn < len(self._data)]
        rows = self._sampler.several(real, records, self._source).reshape(len(real), records)
        for some, last in passes(self._source.uniform(len(real)), MOST_IN_SINGLE, self._at_once):
            _backward(self.model, self._study, self._data.take(rows[some].reshape(-1)))
            self.optimizer.accumulate(part_ends=last)
            if last:
                yield
        if self._canaries:
            for _ in self._canaries.write(self._prepared, drawn[drawn >= len(self._data)] - len(self._data)):
                self.optimizer.accumulate()
            yield


def train_private(
    study: Study,
    start: npt.NDArray[np.float32],
    data: Dataset,
    plan: Plan,
    declared_size: int,
    canaries: Canaries | None = None,
) -> LocalUpdate:
    """`plan.steps_per_release` DP-SGD steps from the global model `start` on the training records of one hospital.

    declared_size: the hospital's public size, which gives the divisor (`Plan.expected_batch`); the true number of
    patients is used for nothing. Randomness comes from the operating system alone. canaries: of an audit, which trains
    their free coordinates as weights that start at zero, so that the change is [D + width].
    """
    private = _Private(study, start, data, plan, plan.expected_batch(declared_size), canaries)
    if canaries:
        start = np.concatenate([start, np.zeros(canaries.width, np.float32)])
    for _ in range(plan.steps_per_release):
        for _ in private.accumulate_batch():
            pass
        private.optimizer.step()
        private.optimizer.zero_grad()
    return LocalUpdate(flatten(private.model) - start, 0.0)


def gradient_sum(
    study: Study, start: npt.NDArray[np.float32], data: Dataset, plan: Plan, canaries: Canaries | None = None
) -> npt.NDArray[np.float64]:
    """[D] the sum over one Poisson sample of patients of their clipped gradients at `start`, without noise.

    This is secret: it may leave the hospital only with noise added and masked. L2 sensitivity to one patient:
    `plan.clip` C, and what floating-point summation adds, at most C / 256. For without the patient, only a part of at
    most n + 1 = 193 patients is added up anew. In single precision (u = 2^-24) any order of adding up n vectors of
    length C is wrong by at most n^2 u C / 2: with the patient and without, together 0.57 / 256 C. Products with factors
    add 2 n u C, terms that cancel 0.1 / 256 C (`entries.at_least`), the sum over parts, in double precision, next to
    nothing. canaries: of an audit, whose free coordinates are appended: [D + width].
    """
    private = _Private(study, start, data, plan, 1.0, canaries)
    total = np.zeros(start.size + (canaries.width if canaries else 0))
    for _ in private.accumulate_batch():
        total += private.optimizer.clipped_sum().numpy()
    return total


def train_plain(study: Study, start: npt.NDArray[np.float32], data: Dataset, seed: tuple[int, ...]) -> LocalUpdate:
    """`study.training.local_steps` steps without privacy.

    The same seed on the same data gives the same result on the CPU; on CUDA sums may be in another order.
    """
    model = _laid_out(model_with(study, start), study).train()
    gpus = range(torch.cuda.device_count()) if device_of(model).type == "cuda" else ()  # all are given the seed
    optimizer = _optimizer(model, study.training)
    source = SeededSource(*seed)
    sampler = PoissonSampler(data.patients, study.training.batch_rate, _shares(study, data, len(data)))
    records, chunk = study.training.records, max(1, _PLAIN_BATCH // study.training.augmentations)
    total, count = 0.0, 0
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))  # dropout, augmentation
        for _ in range(study.training.local_steps):
            rows = sampler.several(sampler.draw(source), records, source)
            optimizer.zero_grad()
            for begin in range(0, len(rows), chunk):
                total += _backward(model, study, data.take(rows[begin : begin + chunk]), records / len(rows))
            count += len(rows) // records
            if len(rows):
                if study.training.gradient_norm:
                    nn.utils.clip_grad_norm_(model.parameters(), study.training.gradient_norm)
                optimizer.step()
    return LocalUpdate(flatten(model) - start, total / max(1, count))


def _backward(model: nn.Module, study: Study, batch: Dataset, scale: float = 1.0) -> float:
    """Gradients of scale * (sum of the patients' losses, each the mean over records and copies); returns the sum."""
    x, lengths = to_tensors(batch, study.input)
    training, where = study.training, device_of(model)
    if isinstance(study.input, ImageInput):
        x = augmented(x, training).contiguous(memory_format=image_format(where))
    x, lengths = x.to(where), None if lengths is None else lengths.to(where)
    y = torch.from_numpy(batch.y).repeat_interleave(training.augmentations).to(where)
    loss = loss_fn(training.class_weights, "sum", training.focal_gamma)(model(x, lengths), y) / training.copies
    (loss * scale).backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _laid_out(model: nn.Module, study: Study) -> nn.Module:
    if isinstance(study.input, ImageInput):
        return model.to(memory_format=image_format(device_of(model)))  # type: ignore[call-overload, no-any-return]
    return model


def _one_patient(study: Study, data: Dataset, where: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A batch of one patient: as many rows of zeros as a patient has, in the shape of the data."""
    (x, lengths), rows = to_tensors(data.take(np.arange(0)), study.input), study.training.copies
    one = x.new_zeros(rows, *x.shape[1:], device=where)
    return one, None if lengths is None else lengths.new_ones(rows, device=where)


def _shares(study: Study, data: Dataset, count: int) -> npt.NDArray[np.float64] | None:
    """[count] the share of the rate for each record by its label, and 1 for the canaries behind them."""
    if not study.training.class_rates:
        return None
    shares = np.ones(count)
    shares[: len(data)] = np.array(study.training.class_rates)[data.y]
    return shares


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer
    if training.optimiser == "adam":
        optimizer = torch.optim.Adam(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    if training.proximal:
        starts = [p.detach().clone() for p in parameters]

        def pull(*_: object) -> None:
            """The gradient of mu / 2 |w - w_round|^2 (Li et al., MLSys 2020); of no patient, so it needs no noise."""
            for parameter, start in zip(parameters, starts, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - start, alpha=training.proximal)

        optimizer.register_step_pre_hook(pull)
    return optimizer
