"""GroupNorm and LayerNorm: scale and shift; the statistics are a record's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, PerRecord


def _scale_and_shift(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> list[Entry]:
    """The entries of the trainable ones; scale, shift: [n, ...]."""
    both = ((weight, scale), (bias, shift))
    return [PerRecord(p, gradients) for p, gradients in both if p is not None and p.requires_grad]


@dataclass(frozen=True, eq=False)
class GroupNormal:
    """x [n, c, ...] normalised over groups of channels (Wu and He, ECCV 2018)."""

    weight: Tensor
    bias: Tensor
    groups: int
    epsilon: float

    def forward(self, x: Tensor) -> tuple[Tensors, Tensors]:
        y, mean, rstd = torch.native_group_norm(x, self.weight, self.bias, *self._sizes(x), self.groups, self.epsilon)
        return (y,), (x, mean, rstd, self.weight)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, mean, rstd, weight = saved
        (g,) = gradients
        if g is None:
            return (None,), []
        dx = None
        if wanted[0]:
            dx, _, _ = torch.ops.aten.native_group_norm_backward(
                g, x, mean, rstd, weight, *self._sizes(x), self.groups, [True, False, False]
            )
        per_channel = x.shape[1] // self.groups
        middle, spread = (v.repeat_interleave(per_channel, dim=1) for v in (mean, rstd))
        places = tuple(range(2, x.dim()))
        shift, product = (v.sum(places) if places else v for v in (g, g * x))
        scale = (product - middle * shift) * spread
        return (dx,), _scale_and_shift(self.weight, self.bias, scale, shift)

    @staticmethod
    def _sizes(x: Tensor) -> tuple[int, int, int]:
        return len(x), x.shape[1], prod(x.shape[2:])


@dataclass(frozen=True, eq=False)
class LayerNormal:
    """x [n, ..., *shape] normalised over its last dimensions (Ba et al., 2016)."""

    weight: Tensor
    bias: Tensor | None
    shape: tuple[int, ...]
    epsilon: float

    def forward(self, x: Tensor) -> tuple[Tensors, Tensors]:
        y, mean, rstd = torch.native_layer_norm(x, self.shape, self.weight, self.bias, self.epsilon)
        return (y,), (x, mean, rstd, self.weight)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, mean, rstd, weight = saved
        (g,) = gradients
        if g is None:
            return (None,), []
        dx = None
        if wanted[0]:
            dx, _, _ = torch.ops.aten.native_layer_norm_backward(
                g, x, self.shape, mean, rstd, weight, self.bias, [True, False, False]
            )
        positions = tuple(range(1, x.dim() - len(self.shape)))
        scale, shift = g * ((x - mean) * rstd), g
        if positions:
            scale, shift = scale.sum(positions), shift.sum(positions)
        return (dx,), _scale_and_shift(self.weight, self.bias, scale, shift)


def group_forward(layer: nn.GroupNorm, book: Book, x: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    return book.apply(GroupNormal(layer.weight, layer.bias, layer.num_groups, layer.eps), x)[0]


def layer_forward(layer: nn.LayerNorm, book: Book, x: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    return book.apply(LayerNormal(layer.weight, layer.bias, layer.normalized_shape, layer.eps), x)[0]
