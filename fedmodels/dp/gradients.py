"""One differentially private gradient step: clipped sums by book-keeping under Opacus's optimizer contract.

Per-record gradients are not Opacus's: `fedmodels.dp.clipping` gets the same sums from one ordinary backward pass. From
Opacus comes the contract of `DPOptimizer`; this module replaces the parts of it whose defaults break the promise: noise
from `torch.manual_seed` (its secure mode silently falls back to it), single-precision norms (0.1% too small on a layer
of 51M weights), and a divisor or an error where a Poisson batch is empty.
"""

import math
from collections.abc import Iterator

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from fedmodels.dp.clipping.prepare import Prepared
from fedmodels.dp.lattice_noise import SUMMATION
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError

_WORTH_A_DRAW = 1 << 16  # numbers: their noise takes longer than starting to draw it
_NORM_ERROR = 2e-5  # relative; norms are tested to 1e-5, and a product with a factor in float32 adds 1e-7


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus carries no types
    """`DPOptimizer` whose noise is cryptographic, whose norms are exact and whose divisor is public.

    One step: `accumulate()` after each backward pass of a physical batch (loss summed over records), then `step()`
    once, also when there was no batch at all. Guarantee of a step: the Gaussian mechanism with L2 sensitivity
    S = C (1 + 1/256) and standard deviation plan.noise_multiplier * S, divided by the public `expected_batch_size`.
    C / 256 is for the rounding of sums, and enough for it where a part has at most 192 records, and which they are does
    not depend on who else is drawn (`sampling.parts`; `client.training.gradient_sum` has the arithmetic). A pass is a
    part of its own, unless the next one is said to be of the same part.
    """

    def __init__(
        self,
        prepared: Prepared,
        optimizer: torch.optim.Optimizer,
        plan: Plan,
        expected_batch_size: float,
        source: SecureSource,
    ) -> None:
        """optimizer: of exactly the trainable parameters of `prepared.model`."""
        if not (math.isfinite(expected_batch_size) and expected_batch_size > 0):
            raise PrivacyError("the divisor of a private step must be a positive public number")
        super().__init__(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=expected_batch_size,
            loss_reduction="sum",
        )
        if set(self.params) != set(prepared.book.names):
            raise PrivacyError(
                "the optimizer's parameters are not the trainable parameters of the prepared model, so the norm of a "
                "record's gradient would not be that of what is released",
                fix="make the optimizer from `prepared.model.parameters()`",
            )
        self._book = prepared.book
        self._source = source

    def accumulate(self, *, part_ends: bool = True) -> None:
        """Clip the records of the last backward pass and add them to the step's sum; nothing, if there was none.

        part_ends: False where the next pass is of the same part, as a part of 192 records may need several.
        """
        self._book.add_clipped(clip_factors(self._book.norms(), self.max_grad_norm), part_ends=part_ends)

    def clip_and_accumulate(self) -> None:
        self.accumulate()

    def clipped_sum(self) -> Tensor:
        """The sum since the last step, [D] float32, without noise, and start again from zero; zeros without a batch.

        In the order of `fedmodels.models.weights.flatten`: ascending names. Not private: noise has to be added.
        """
        parts = []
        for parameter, _ in sorted(self._book.names.items(), key=lambda item: item[1]):
            parts.append(self._taken(parameter).cpu().to(torch.float32).reshape(-1))
        return torch.cat(parts)

    def _taken(self, parameter: Tensor) -> Tensor:
        """The sum of one parameter, float64 if it is of several parts, which starts again from zero."""
        self._book.end_part()
        total = self._book.sums.pop(parameter, None)
        if total is None:
            return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        return total.contiguous()

    def step(self, closure: object = None) -> None:
        """Noise, division and the optimizer's step. A backward pass that was not accumulated yet is accumulated."""
        if closure is not None:
            raise PrivacyError("a private step takes no closure")
        super().step()

    def pre_step(self, closure: object = None) -> bool:  # noqa: ARG002 - Opacus's signature
        self.accumulate()
        self.add_noise()
        if self.step_hook:
            self.step_hook(self)
        return True

    def signal_skip_step(self, do_skip: bool = True) -> None:
        if do_skip:
            raise PrivacyError("steps are not skipped", fix="call `accumulate()` after each physical batch")

    def add_noise(self) -> None:
        """p.grad = (clipped sum + noise) / divisor, if it can be in the memory of the sum; small ones share theirs.

        An empty batch's sum is zero.
        """
        deviation = self.noise_multiplier * self.max_grad_norm * float(1 + SUMMATION)
        for group in _few_draws(self.params):
            totals = [self._taken(p) for p in group]
            joined = totals[0] if len(group) == 1 else torch.cat([total.view(-1) for total in totals])
            self._source.add_normal(joined, deviation, 1.0 / self.expected_batch_size)
            parts = torch.split(joined.view(-1), [p.numel() for p in group])
            for p, part in zip(group, parts, strict=True):
                p.grad = part.view(p.shape).to(p.dtype)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 - Opacus's signature
        """Drop `p.grad` and, as Opacus does, what was accumulated since the last step."""
        self._book.clear()
        self.original_optimizer.zero_grad(set_to_none=True)


def _few_draws(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Small parameters of one type and device together, the others alone: a draw has a price, however small it is."""
    small: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for p in parameters:
        if p.numel() > _WORTH_A_DRAW:
            yield [p]
        else:
            small.setdefault((p.dtype, p.device), []).append(p)
    yield from small.values()


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """[n] factors min(1, C/norm), rounded down by more than a norm may be wrong; 0 for a non-finite norm."""
    factors = (clip / norms.clamp(min=clip)) * (1.0 - _NORM_ERROR)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))
