"""Convolutions of one to three dimensions: per-record weight gradients at the price of the plain weight gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, PerRecord
from fedmodels.errors import PrivacyError

# Up to this size of a record's patches a matrix product is faster than a call of the convolution per record, and this
# much is made at a time. Measured with 3 x 3 kernels: 28 and 64 pixels below, 112 and 224 above.
_COLUMNS_BYTES = 1 << 21

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
            entries.append(self._entry(x, g, weight))
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

    def _entry(self, x: Tensor, g: Tensor, weight: Tensor) -> Entry:
        size = g[0, :1].numel() * weight[0].numel() * x.element_size() if len(x) else 0
        if x.dim() == 4 and self.groups == 1 and size <= _COLUMNS_BYTES:
            return PerRecord(self.weight, self._by_columns(x, g, max(1, _COLUMNS_BYTES // (size + 1))), (0, 2, 3, 1))
        gradients = weight.new_empty(len(x), *weight.shape)
        for i in range(len(x)):
            gradients[i] = self._derive(x[i : i + 1], g[i : i + 1], weight, 1)
        return PerRecord(self.weight, gradients)

    def _by_columns(self, x: Tensor, g: Tensor, at_once: int) -> Tensor:
        """[n, m, i, j, c] by a matrix product per record with all patches of its image ("im2col"), some at a time."""
        (up, left), kernel = self.padding, self.weight.shape[2:]
        x = F.pad(x, (left, left, up, up)).permute(0, 2, 3, 1).contiguous()
        g = g.permute(0, 2, 3, 1)
        patches = x.as_strided(
            (len(x), *g.shape[1:3], *kernel, x.shape[3]),
            (x.stride(0), *(x.stride(1 + d) * self.stride[d] for d in (0, 1)),
             *(x.stride(1 + d) * self.dilation[d] for d in (0, 1)), 1),
        )  # fmt: skip
        out = x.new_empty(len(x), g.shape[3], kernel.numel() * x.shape[3])
        for first in range(0, len(x), at_once):
            rows = slice(first, first + at_once)
            columns = patches[rows].flatten(3).flatten(1, 2)
            torch.bmm(g[rows].flatten(1, 2).mT, columns, out=out[rows])
        return out.view(len(x), g.shape[3], *kernel, x.shape[3])


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
