"""`nn.LSTM` and `nn.GRU` for an Opacus loop of one's own: fast samplers in Opacus's registry.

    model.rnn = FastLstm(40, 128, batch_first=True)  # loads and saves the state dict of nn.LSTM
    model, optimizer, loader = PrivacyEngine().make_private(module=model, ...)

The training of this project uses `prepare`, which is faster. Works with Opacus's modes "hooks" and "ghost".
"""

from collections.abc import Sequence
from typing import Any

import torch
from opacus.grad_sample import register_grad_sampler, register_norm_sampler
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from fedmodels.dp.clipping import recurrent
from fedmodels.dp.clipping.book import Gradients, Operation, Tensors
from fedmodels.dp.clipping.entries import Entry, Outer, PerRecord
from fedmodels.errors import PrivacyError


class _Notes:
    """What the last backward pass of a layer left for the sampler that Opacus calls after it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.largest = 0.0  # gradient of an output

    def apply(self, operation: Operation, *inputs: Tensor) -> Tensors:
        parameters = [p for p in vars(operation).values() if p is not None]
        outputs: Tensors = _Sampled.apply(self, operation, len(inputs), *inputs, *parameters)  # type: ignore[no-untyped-call]
        return outputs

    def take(self) -> list[Entry]:
        entries, self.entries = self.entries, []
        return entries


class _Sampled(torch.autograd.Function):
    """An operation that notes its entries and also gives its parameters their ordinary gradients, as Opacus expects."""

    @staticmethod
    def forward(ctx: Any, notes: _Notes, operation: Operation, count: int, *tensors: Tensor) -> Tensors:  # noqa: ANN401
        outputs, saved = operation.forward(*tensors[:count])
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        ctx.notes, ctx.operation, ctx.parameters = notes, operation, tensors[count:]
        ctx.wanted = ctx.needs_input_grad[3 : 3 + count]
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:  # noqa: ANN401
        inputs, entries = ctx.operation.backward(ctx.saved_tensors, gradients, ctx.wanted)
        ctx.notes.entries += entries
        totals = {entry.parameter: entry.added(_ones(entry), None) for entry in entries}
        return (None, None, None, *inputs, *(totals.get(p) for p in ctx.parameters))


def _ones(entry: Entry) -> Tensor:
    return torch.ones(entry.records, dtype=entry.parameter.dtype, device=entry.parameter.device)


def _needs_gradient(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001 - a hook's signature
    """Without it, Opacus's hook of a first layer runs before the layer's backward pass and finds nothing."""
    if isinstance(args[0], PackedSequence):
        raise PrivacyError("Opacus cannot sample gradients of packed sequences", fix="give the layer a padded tensor")
    if args[0].requires_grad or not torch.is_grad_enabled():
        return args
    return (args[0].detach().requires_grad_(), *args[1:])


class FastLstm(nn.LSTM):
    """An `nn.LSTM`, with its arguments and its state dict, that Opacus can train; stock kernels without gradients."""

    notes: _Notes

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        _set_up(self)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        return _forward(self, x, hx) if torch.is_grad_enabled() else super().forward(x, hx)


class FastGru(nn.GRU):
    """An `nn.GRU`, with its arguments and its state dict, that Opacus can train; stock kernels without gradients."""

    notes: _Notes

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        _set_up(self)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        return _forward(self, x, hx) if torch.is_grad_enabled() else super().forward(x, hx)


def _set_up(layer: FastLstm | FastGru) -> None:
    recurrent.check(layer)
    layer.register_forward_pre_hook(_needs_gradient)


def _forward(layer: FastLstm | FastGru, x: Tensor, hx: recurrent.State | None) -> Any:  # noqa: ANN401
    layer.notes = notes = _Notes()
    states, final = recurrent.forward(layer, notes, x, hx)
    if isinstance(states, Tensor):
        states.register_hook(lambda g: setattr(notes, "largest", float(g.abs().max()) if g.numel() else 0.0))  # type: ignore[no-untyped-call]
    return states, final


def _entries(layer: FastLstm | FastGru, backprops: Tensor) -> tuple[list[Entry], float]:
    """The entries of the last backward pass, and the factor by which Opacus scales gradients: the batch's size for a
    mean loss, else 1. It shows in `backprops`, the gradient of the layer's output after scaling.
    """
    entries, largest = layer.notes.take(), layer.notes.largest
    if largest == 0.0 and backprops.numel():
        raise PrivacyError("the gradient of the layer's outputs is zero", fix="use its outputs, not its final state")
    scale = float(backprops.abs().max()) / largest if backprops.numel() else 1.0
    records = entries[0].records if entries else 0
    nearest = min((1, records), key=lambda n: abs(n - scale))
    if abs(nearest - scale) > 1e-3 * scale:
        raise PrivacyError("the scale of the loss is neither a mean nor a sum over records")
    return entries, float(nearest)


def grad_sampler(layer: FastLstm | FastGru, activations: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:  # noqa: ARG001
    """Opacus's contract: {parameter: per-record gradients [n, ...]}."""
    entries, scale = _entries(layer, backprops)
    return {entry.parameter: _made(entry) * scale for entry in entries}


def norm_sampler(layer: FastLstm | FastGru, activations: Sequence[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:  # noqa: ARG001
    """Opacus's contract: {parameter: norms of the per-record gradients [n]}."""
    entries, scale = _entries(layer, backprops)
    return {e.parameter: (e.squared_norms().sqrt() * scale).to(e.parameter.dtype) for e in entries}


def _made(entry: Entry) -> Tensor:
    if isinstance(entry, Outer):
        return entry.outputs.mT @ entry.inputs
    if isinstance(entry, PerRecord):
        return entry.gradients
    raise PrivacyError(f"no per-record gradients from {type(entry).__name__}")


register_grad_sampler([FastLstm, FastGru])(grad_sampler)
register_norm_sampler([FastLstm, FastGru])(norm_sampler)
