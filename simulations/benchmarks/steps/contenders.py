"""One training step, the ways there are: without privacy, with Opacus's modes, and ours. Every private step has noise
1 and clip 1 and the same plain SGD.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from opacus.grad_sample.utils import prepare_module
from opacus.optimizers import get_optimizer_class
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import PrivateOptimizer
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.models.device import device
from fedmodels.models.losses import loss_fn
from simulations.benchmarks.steps.cases import Case

Step = Callable[[], None]

_RATE = 0.01
_PLAN = Plan(0.1, 1.0, 1.0, 1, 1, 1e-5)


@dataclass(frozen=True)
class Contender:
    """prepare: a step that can be repeated. held: floats per parameter and record that a step holds at one time."""

    name: str
    prepare: Callable[[Case], Step]
    held: int = 0


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=_RATE)


def _stock(case: Case) -> Step:
    model, (x, lengths, y), loss = case.model(), case.data(), loss_fn((), "sum")
    optimizer = _sgd(model)

    def step() -> None:
        for _ in range(case.chunks):
            loss(model(x, lengths), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _ours(case: Case) -> Step:
    prepared, (x, lengths, y), loss = prepare(case.model()), case.data(), loss_fn((), "sum")
    optimizer = PrivateOptimizer(prepared, _sgd(prepared.model), _PLAN, case.batch * case.chunks, SecureSource())

    def step() -> None:
        for chunk in range(1, case.chunks + 1):
            loss(prepared.model(x, lengths), y).backward()  # type: ignore[no-untyped-call]
            optimizer.accumulate(part_ends=chunk == case.chunks)  # 128 records: one part, also of a hospital's step
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Loss(nn.Module):
    """The mean loss, as Opacus's ghost clipping wants it: per record, when `reduction` is "none"."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            return nn.functional.binary_cross_entropy_with_logits(
                logits[:, 0], y.to(logits.dtype), reduction=self.reduction
            )
        return nn.functional.cross_entropy(logits, y, reduction=self.reduction)


def _opacus(mode: str) -> Callable[[Case], Step]:
    def prepared(case: Case) -> Step:
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        (x, lengths, y), criterion = case.data(), _Loss()
        clip = {"max_grad_norm": 1.0} if mode == "ghost" else {}
        fixed = ModuleValidator.fix(copy.deepcopy(case.model())).to(device())  # layers that it replaces: on the CPU
        model = prepare_module(fixed, mode, batch_first=True, loss_reduction="mean", **clip)
        optimizer = get_optimizer_class("flat", distributed=False, grad_sample_mode=mode)(
            _sgd(model), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=case.batch
        )
        loss = DPLossFastGradientClipping(model, optimizer, criterion) if mode == "ghost" else criterion

        def step() -> None:
            loss(model(x, lengths), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return prepared


STOCK = Contender("stock, no privacy", _stock)
OURS = Contender("fedmodels", _ours)
OPACUS = (
    Contender("Opacus hooks", _opacus("hooks"), held=2),
    Contender("Opacus functorch", _opacus("functorch"), held=3),
    Contender("Opacus ghost", _opacus("ghost")),
)
CONTENDERS = (STOCK, OURS, *OPACUS)
