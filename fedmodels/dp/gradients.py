"""One differentially private gradient step on Opacus's per-sample gradients.

Opacus supplies the per-sample gradients (`GradSampleModule`, hooks) and the optimizer contract (`DPOptimizer`); this
module replaces the three parts of it whose defaults break the promise: noise from `torch.manual_seed` (its secure mode
silently falls back to it), single-precision norms (0.1% too small on a layer of 51M weights), and a divisor or an error
where a Poisson batch is empty.
"""

import copy
import math
import warnings

import torch
from opacus.grad_sample import GradSampleModule
from opacus.layers import DPGRU, DPLSTM
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError

_PHYSICAL_BATCH_BYTES = 1 << 29  # per-sample gradients held at one time


def per_sample(model: nn.Module) -> GradSampleModule:
    """A copy of `model` with per-sample gradients; recurrent layers become Opacus's, with the same weights and names.

    The names hold in its `state_dict()` (which may list a weight twice), not in `named_parameters()`. Refuses layers
    that mix patients (BatchNorm) or that Opacus has no per-sample gradient for.
    """
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.LSTM | nn.GRU):
            _replace(model, name, _private_recurrent(layer))
    if problems := ModuleValidator.validate(model, strict=False):
        raise PrivacyError(
            f"this model cannot be trained with differential privacy: {problems[0]}",
            where="model",
            fix="use GroupNorm instead of BatchNorm, or a layer type with per-sample gradients",
        )
    return GradSampleModule(model, batch_first=True, loss_reduction="sum")


def backward(loss: Tensor) -> None:
    """`loss.backward()` without torch's warning that the first layer's input, which is data, needs no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss.backward()  # type: ignore[no-untyped-call]


def _private_recurrent(layer: nn.LSTM | nn.GRU) -> nn.Module:
    kind = DPLSTM if isinstance(layer, nn.LSTM) else DPGRU
    private: nn.Module = kind(
        layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first
    )
    if layer.bidirectional or layer.dropout:
        raise PrivacyError("bidirectional layers and dropout inside a recurrent layer are not supported under privacy")
    private.load_state_dict(layer.state_dict())
    return private


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def physical_batch(model: nn.Module) -> int:
    """Records per forward pass such that their per-sample gradients fit in half a GiB (at least 1)."""
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return max(1, _PHYSICAL_BATCH_BYTES // (4 * max(1, parameters)))


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus carries no types
    """`DPOptimizer` whose noise is cryptographic, whose norms are float64 and whose divisor is public.

    One step: `accumulate()` after each backward pass of a physical batch (loss summed over records), then `step()`
    once, also when there was no batch at all. Guarantee of a step: the Gaussian mechanism with L2 sensitivity C and
    standard deviation plan.noise_multiplier * C, divided by the public `expected_batch_size`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, plan: Plan, expected_batch_size: float, source: SecureSource
    ) -> None:
        if not (math.isfinite(expected_batch_size) and expected_batch_size > 0):
            raise PrivacyError("the divisor of a private step must be a positive public number")
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=expected_batch_size,
            loss_reduction="sum",
        )
        self._source = source

    def accumulate(self) -> None:
        """Clip the per-sample gradients of the last backward pass and add them to the step's sum."""
        self.clip_and_accumulate()
        for p in self.params:
            p.grad_sample = None

    def clip_and_accumulate(self) -> None:
        samples = self.grad_samples
        squares = torch.stack([g.flatten(1).square().sum(1, dtype=torch.float64) for g in samples])
        factors = clip_factors(squares.sum(0).sqrt(), self.max_grad_norm)
        for p, grads in zip(self.params, samples, strict=True):
            # 0 * nan is nan, so a record whose gradient overflowed is taken out by value, not only by its factor.
            finite = grads if bool((factors > 0).all()) else grads.nan_to_num(0.0, 0.0, 0.0)
            clipped = torch.einsum("n,n...->...", factors.to(grads.dtype), finite)
            p.summed_grad = clipped if p.summed_grad is None else p.summed_grad + clipped

    def pre_step(self, closure: object = None) -> bool:
        if closure is not None:
            raise PrivacyError("a private step takes no closure")
        for p in self.params:
            if p.summed_grad is None:  # an empty Poisson batch still takes a noisy step
                p.summed_grad = torch.zeros_like(p)
        self.add_noise()
        self.scale_grad()
        return True

    def add_noise(self) -> None:
        deviation = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.from_numpy(self._source.normal(p.numel())).view_as(p)
            p.grad = (p.summed_grad.double() + deviation * noise.to(p.device)).to(p.dtype)

    def scale_grad(self) -> None:
        for p in self.params:
            p.grad /= self.expected_batch_size


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """[n] factors min(1, C/norm), rounded down so that a float32 product stays within C; 0 for a non-finite norm."""
    factors = (clip / norms.clamp(min=clip)) * (1.0 - 1e-6)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))
