"""Layers for an Opacus loop of one's own: recurrent, dense, convolution, embedding, with samplers in Opacus's registry.

    model.rnn = FastLstm(40, 128, batch_first=True)  # loads and saves the state dict of nn.LSTM
    model.out = FastLinear(128, 2)
    model, optimizer, loader = PrivacyEngine().make_private(module=model, ...)

Each is its stock layer but for what Opacus finds under its type; stock layers stay as Opacus has them. For the modes
"hooks" and "ghost"; the training of this project uses `prepare`, which is faster. Per-record gradients and norms are
those of `prepare`, right to 1e-5, and so are the norms that a record is clipped by:

- "ghost": `norm_sampler`'s, of which nothing per record is made, however large a dense layer or a vocabulary is. Opacus
  refuses a layer that is called twice or shares parameters. A convolution's gradients are made to be measured.
- "hooks": Opacus measures the gradients itself, in the type that it gets. In single precision it adds up squares one by
  one; measured on a processor, that finds up to 0.1% too little in 2^18 numbers and 1% in 50 million. So long ones are
  given to it in double precision. All of them are made, those of an embedding [n, vocabulary, width] too.

Sharp edges:

- Flat clipping alone, Opacus's default. Its optimizers of `clipping="per_layer"` and `"adaptive"` do not take double
  precision: with more than 2048 weights of a layer here, `step()` raises torch's error of a dtype before it changes
  anything.
- In "ghost" mode, torch adds up what was measured, in single precision over all records and their positions. A record
  whose positions cancel (time steps, places in an image, words) to less than about a thousandth of their lengths can
  move that sum by more than the clip. `prepare` has a bound for it (`entries.at_least`).

Refused: torch settings that shorten the factors of matrix products (TF32, bfloat16), packed sequences and the final
state alone (Opacus hooks see the outputs only), projections, embeddings with `max_norm`, `scale_grad_by_freq` or
`sparse`, mixed precision.
"""

from collections.abc import Sequence
from typing import Any

import torch
from opacus.grad_sample import register_grad_sampler, register_norm_sampler
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from fedmodels.dp.clipping import convolution, embedding, linear, recurrent
from fedmodels.dp.clipping.book import Gradients, Operation, Tensors, refuse_short_products
from fedmodels.dp.clipping.convolution import Parts
from fedmodels.dp.clipping.embedding import Rows
from fedmodels.dp.clipping.entries import Entry, Outer, PerRecord, Summed
from fedmodels.errors import PrivacyError

_SHORT = 1 << 11  # numbers: at worst, the single-precision norm of so many is too small by 1e-5


class _Notes:
    """What the last backward pass of a layer left for the sampler that Opacus calls after it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.largest = 0.0  # gradient of an output

    def apply(self, operation: Operation, *inputs: Tensor) -> Tensors:
        parameters = [p for p in vars(operation).values() if p is not None]
        outputs: Tensors = _Sampled.apply(self, operation, len(inputs), *inputs, *parameters)  # type: ignore[no-untyped-call]
        return outputs


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
        totals = {entry.parameter: entry.added(_ones(entry)) for entry in entries}
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

    notes: list[_Notes]

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        _set_up(self)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        return _forward(self, x, hx) if torch.is_grad_enabled() else super().forward(x, hx)


class FastGru(nn.GRU):
    """An `nn.GRU`, with its arguments and its state dict, that Opacus can train; stock kernels without gradients."""

    notes: list[_Notes]

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        _set_up(self)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        return _forward(self, x, hx) if torch.is_grad_enabled() else super().forward(x, hx)


def _set_up(layer: FastLstm | FastGru) -> None:
    recurrent.check(layer)
    layer.notes = []
    layer.register_forward_pre_hook(_needs_gradient)


def _forward(layer: FastLstm | FastGru, x: Tensor, hx: recurrent.State | None) -> Any:  # noqa: ANN401
    """Its notes go onto a stack, as a layer may be called several times before Opacus reads them: the last one first.

    Those that a backward pass filled without Opacus (its hooks are off then) are dropped.
    """
    notes = _Notes()
    layer.notes = [*(unread for unread in layer.notes if not unread.entries), notes]
    states, final = recurrent.forward(layer, notes, x, hx)
    if isinstance(states, Tensor):
        states.register_hook(lambda g: setattr(notes, "largest", float(g.abs().max()) if g.numel() else 0.0))  # type: ignore[no-untyped-call]
    return states, final


class FastLinear(nn.Linear):
    """An `nn.Linear`, with its arguments and its state dict, whose norms Opacus gets exactly at any size."""


class FastConv1d(nn.Conv1d):
    """An `nn.Conv1d`, with its arguments and its state dict; any padding mode, as with the following two."""


class FastConv2d(nn.Conv2d):
    """An `nn.Conv2d`, with its arguments and its state dict."""


class FastConv3d(nn.Conv3d):
    """An `nn.Conv3d`, with its arguments and its state dict."""


class FastEmbedding(nn.Embedding):
    """An `nn.Embedding`, with its arguments and its state dict; empty batches are possible in every mode."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **options)
        embedding.check(self)


_Direct = FastLinear | FastConv1d | FastConv2d | FastConv3d | FastEmbedding


def _entries(
    layer: FastLstm | FastGru | _Direct, activations: Sequence[Tensor], backprops: Tensor
) -> tuple[list[Entry], float]:
    """The entries of the last backward pass, and the factor that Opacus's contract wants them multiplied by."""
    refuse_short_products(backprops)
    if isinstance(layer, FastLstm | FastGru):
        return _noted(layer, backprops)
    x = activations[0]
    if len({t.dtype for t in (x, backprops, *layer.parameters()) if t.is_floating_point()}) > 1:
        raise PrivacyError("mixed precision under privacy is not supported", fix="train without autocast")
    operation: linear.Dense | convolution.Convolution | embedding.Lookup
    if isinstance(layer, nn.Linear):
        operation, x = linear.operation(layer, x)
    elif isinstance(layer, nn.Embedding):
        operation, x = embedding.operation(layer, x)
    else:
        operation, x = convolution.operation(layer, x)
    return operation.entries(x, backprops), 1.0


def _noted(layer: FastLstm | FastGru, backprops: Tensor) -> tuple[list[Entry], float]:
    """What a recurrent layer noted, and the factor by which Opacus scales gradients: the batch's size for a mean loss,
    else 1. It shows in `backprops`, the gradient of the layer's output after scaling.
    """
    if not layer.notes:
        raise PrivacyError(
            "Opacus asks for the gradients of a forward pass that was read before",
            fix="make a forward pass for every backward pass",
        )
    notes = layer.notes.pop()
    entries, largest = notes.entries, notes.largest
    if largest == 0.0 and backprops.numel():
        raise PrivacyError("the gradient of the layer's outputs is zero", fix="use its outputs, not its final state")
    scale = float(backprops.abs().max()) / largest if backprops.numel() else 1.0
    records = entries[0].records if entries else 0
    nearest = min((1, records), key=lambda n: abs(n - scale))
    if abs(nearest - scale) > 1e-3 * scale:
        raise PrivacyError("the scale of the loss is neither a mean nor a sum over records")
    return entries, float(nearest)


def grad_sampler(
    layer: FastLstm | FastGru | _Direct, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Opacus's contract: {parameter: per-record gradients [n, ...]}; in float64 where Opacus could not measure them."""
    entries, scale = _entries(layer, activations, backprops)
    return {entry.parameter: _measurable(_made(entry) * scale) for entry in entries}


def norm_sampler(
    layer: FastLstm | FastGru | _Direct, activations: Sequence[Tensor], backprops: Tensor
) -> dict[Tensor, Tensor]:
    """Opacus's contract: {parameter: norms of the per-record gradients [n]}."""
    entries, scale = _entries(layer, activations, backprops)
    return {e.parameter: (e.squared_norms().sqrt() * scale).to(e.parameter.dtype) for e in entries}


def _measurable(gradients: Tensor) -> Tensor:
    """The same numbers in a type in which adding up their squares one by one is exact to 1e-5."""
    return gradients.double() if gradients.shape[1:].numel() > _SHORT else gradients


def _made(entry: Entry) -> Tensor:
    """[n, ...] the gradients themselves, in the shape of the parameter."""
    if isinstance(entry, Outer):
        return entry.outputs.mT @ entry.inputs
    if isinstance(entry, PerRecord | Summed):
        return (entry.made if isinstance(entry, Summed) else entry).gradients
    if isinstance(entry, Parts):
        return entry.in_order()
    if isinstance(entry, Rows):
        return _table(entry)
    raise PrivacyError(f"no per-record gradients from {type(entry).__name__}")


def _table(entry: Rows) -> Tensor:
    """[n, v, d] from the rows that were looked up."""
    table = entry.outputs.new_zeros(entry.records, *entry.parameter.shape)
    owners = torch.arange(entry.records, device=entry.ids.device)[:, None]
    table.index_put_((owners, entry.ids), entry.outputs, accumulate=True)
    if entry.unused >= 0:
        table[:, entry.unused] = 0.0
    return table


_ALL = [FastLstm, FastGru, FastLinear, FastConv1d, FastConv2d, FastConv3d, FastEmbedding]
register_grad_sampler(_ALL)(grad_sampler)
register_norm_sampler(_ALL)(norm_sampler)
