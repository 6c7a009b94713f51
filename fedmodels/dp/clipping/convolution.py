"""Convolutions of one to three dimensions: per-record weight gradients at the price of the plain weight gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, PerRecord
from fedmodels.errors import PrivacyError

Convolutional = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True, eq=False)
class Convolution:
    """x [n, c, ...] -> [n, m, ...]; stride, padding and dilation have one number per dimension."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor) -> tuple[Tensors, Tensors]:
        none = (0,) * len(self.stride)
        y = torch.convolution(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, False, none, self.groups
        )
        return (y,), (x, self.weight)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, weight = saved
        (g,) = gradients
        if g is None:
            return (None,), []
        entries: list[Entry] = []
        if self.weight.requires_grad:
            entries.append(PerRecord(self.weight, self._weight_gradients(x, g, weight)))
        if self.bias is not None and self.bias.requires_grad:
            entries.append(PerRecord(self.bias, g.flatten(2).sum(2)))
        return (self._derive(x, g, weight, 0) if wanted[0] else None,), entries

    def _derive(self, x: Tensor, g: Tensor, weight: Tensor, of: int) -> Tensor:
        """The gradient of the input (of = 0) or of the weight (1), summed over the batch."""
        derived: Tensor = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups,
            [of == 0, of == 1, False],
        )[of]  # fmt: skip
        return derived

    def _weight_gradients(self, x: Tensor, g: Tensor, weight: Tensor) -> Tensor:
        """[n, *weight.shape], by one call per record."""
        out = weight.new_empty(len(x), *weight.shape)
        for i in range(len(x)):
            out[i] = self._derive(x[i : i + 1], g[i : i + 1], weight, 1)
        return out


def forward(layer: Convolutional, book: Book, x: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    dimensions = len(layer.kernel_size)
    if x.dim() != dimensions + 2:
        raise PrivacyError("a convolution got a record without a batch dimension", fix="give the model batches")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    before, after = _padding(layer)
    padding = tuple(before)
    if mode != "constant" or before != after:
        ends = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
        x, padding = F.pad(x, ends, mode), (0,) * dimensions
    operation = Convolution(layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups)
    return book.apply(operation, x)[0]


def _padding(layer: Convolutional) -> tuple[list[int], list[int]]:
    """Before and after each dimension. "same" puts the odd one of an uneven total after, as torch does."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0] * len(layer.kernel_size), [0] * len(layer.kernel_size)
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    return list(layer.padding), list(layer.padding)
