"""GroupNorm and LayerNorm: scale and shift; the statistics are a record's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from fedmodels.dp.clipping.blocks import Table, layout
from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, PerRecord

_LARGE = 1 << 13  # elements of a record; measured with 64 of them, of 7 to 64 pixels a side, on two threads


def _sums(g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """[n, c] each: the sums over positions of g and of g * x."""
    positions = tuple(range(2, x.dim()))
    return (g.sum(positions), (g * x).sum(positions)) if positions else (g, g * x)


def _scale_and_shift(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> list[Entry]:
    """The entries of the trainable ones; scale, shift: [n, ...]."""
    both = ((weight, scale), (bias, shift))
    return [PerRecord(p, gradients) for p, gradients in both if p is not None and p.requires_grad]


@dataclass(frozen=True, eq=False)
class GroupNormal:
    """x [n, c, ...] normalised over groups of channels (Wu and He, ECCV 2018).

    The gradient of x is spread * (weight g - mean(weight g) - x' mean(weight g x')), x' the normalised x and the means
    over a group. For large records both means come from the per-record gradients of scale and shift, which torch's own
    backward would sum a second time; for small ones its one call is faster than many. Which of both does not depend on
    the other records.
    """

    weight: Tensor
    bias: Tensor
    groups: int
    epsilon: float

    def forward(self, x: Tensor) -> tuple[Tensors, Tensors]:
        x = x.contiguous(memory_format=layout(x))
        y, mean, rstd = torch.native_group_norm(x, self.weight, self.bias, *self._sizes(x), self.groups, self.epsilon)
        return (y,), (x, mean, rstd, self.weight)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, mean, rstd, weight = saved
        (g,) = gradients
        if g is None:
            return (None,), []
        small = x[:1].numel() < _LARGE
        shift, product = _sums(g, x) if small else Table(x).sums(g, x)
        centre, spread = (v.repeat_interleave(x.shape[1] // self.groups, dim=1) for v in (mean, rstd))
        scale = (product - centre * shift) * spread
        dx = None
        if wanted[0] and small:
            g = g.contiguous(memory_format=layout(x))
            dx, _, _ = torch.ops.aten.native_group_norm_backward(
                g, x, mean, rstd, weight, *self._sizes(x), self.groups, [True, False, False]
            )
        elif wanted[0]:
            level, slope = self._group_means(torch.stack((shift, scale)) * weight, x)
            slope = -slope * spread**2
            factors = torch.stack((spread * weight, slope, -level * spread - slope * centre))
            dx = Table(x).combination(g, x, factors)
        return (dx,), _scale_and_shift(self.weight, self.bias, scale.to(x.dtype), shift.to(x.dtype))

    def _group_means(self, sums: Tensor, x: Tensor) -> Tensor:
        """[2, n, c] the means over each channel's group, from two sums over positions [2, n, c]."""
        per_group = x.shape[1] // self.groups
        means = sums.view(2, len(x), self.groups, per_group).sum(3, keepdim=True) / (per_group * prod(x.shape[2:]))
        return means.expand(-1, -1, -1, per_group).flatten(2)

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
