"""Convolutions of one to three dimensions: per-record weight gradients at the price of the plain weight gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, PerRecord, squares
from fedmodels.errors import PrivacyError

# Up to this size of a record's strips, matrix products are faster than a call of the convolution per record. Measured
# with 3 x 3 kernels: 28 and 64 pixels below, 112 and 224 above.
_STRIPS_BYTES = 1 << 18
_AT_ONCE_BYTES = 1 << 21
_WIDTH = 16  # numbers: a matrix product with fewer columns is slow

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
        return (self._derive(x, g, weight, 0) if wanted[0] else None,), self.entries(x, g)

    def entries(self, x: Tensor, g: Tensor) -> list[Entry]:
        """One for each trainable parameter; g [n, m, ...]: the gradient of the output."""
        entries: list[Entry] = []
        if self.weight.requires_grad:
            entries.append(self._entry(x, g, self.weight.detach()))
        if self.bias is not None and self.bias.requires_grad:
            entries.append(PerRecord(self.bias, g.flatten(2).sum(2)))
        return entries

    def _derive(self, x: Tensor, g: Tensor, weight: Tensor, of: int) -> Tensor:
        """The gradient of the input (of = 0) or of the weight (1), summed over the batch."""
        derived: Tensor = torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups,
            [of == 0, of == 1, False],
        )[of]  # fmt: skip
        return derived

    def _entry(self, x: Tensor, g: Tensor, weight: Tensor) -> Entry:
        if x.dim() == 4 and self.groups == 1 and len(x):
            width = weight[0, :, 0].numel()  # what a row of the kernel sees
            size = (x.shape[2] + 2 * self.padding[0]) * g.shape[3] * width * x.element_size()
            if size <= _STRIPS_BYTES:
                return self._by_planes(x, g) if width < _WIDTH else self._by_rows(x, g)
        gradients = weight.new_empty(len(x), *weight.shape)
        for i in range(len(x)):
            gradients[i] = self._derive(x[i : i + 1], g[i : i + 1], weight, 1)
        return PerRecord(self.weight, gradients)

    def _by_rows(self, x: Tensor, g: Tensor) -> Entry:
        """For each row of the kernel, a matrix product per record.

        For that, every image is turned into strips: at each place, what one row of the kernel sees there. Another row
        of the kernel sees the strips of another line, which are the same memory ("im2col" would copy them again).
        """
        (up, left), (down, across), (rows, columns) = self.padding, self.stride, self.weight.shape[2:]
        x = F.pad(x, (left, left, up, up)).permute(0, 2, 3, 1).contiguous()
        g = g.permute(0, 2, 3, 1)
        strips = x.as_strided(
            (len(x), x.shape[1], g.shape[2], columns, x.shape[3]),
            (x.stride(0), x.stride(1), across * x.stride(2), self.dilation[1] * x.stride(2), 1),
        )
        out = x.new_empty(rows, len(x), g.shape[3], columns * x.shape[3])
        reach = (g.shape[1] - 1) * down + 1
        for some in _slices(strips):
            lines, outputs = strips[some].flatten(3), g[some].flatten(1, 2).mT
            for row in range(rows):
                begin = row * self.dilation[0]
                torch.bmm(outputs, lines[:, begin : begin + reach : down].flatten(1, 2), out=out[row, some])
        return Parts(self.weight, out.view(*out.shape[:3], columns, x.shape[3]), (1, 3, 0, 2))

    def _by_planes(self, x: Tensor, g: Tensor) -> Entry:
        """For few channels: a matrix product per record with what each weight of an output's kernel sees everywhere."""
        (up, left), (down, across), kernel = self.padding, self.stride, self.weight.shape[2:]
        x = F.pad(x, (left, left, up, up)).contiguous()
        g = g.permute(0, 2, 3, 1)
        planes = x.as_strided(
            (len(x), x.shape[1], *kernel, *g.shape[1:3]),
            (x.stride(0), x.stride(1), self.dilation[0] * x.stride(2), self.dilation[1], down * x.stride(2), across),
        )
        out = x.new_empty(1, len(x), self.weight[0].numel(), g.shape[3])
        for some in _slices(planes):
            torch.bmm(planes[some].flatten(4).flatten(1, 3), g[some].flatten(1, 2), out=out[0, some])
        return Parts(self.weight, out.view(1, len(x), x.shape[1], *kernel, g.shape[3]), (4, 1, 2, 3, 0))


def _slices(records: Tensor) -> Iterator[slice]:
    """So many records at a time that they stay in the cache when they are copied."""
    step = max(1, _AT_ONCE_BYTES // max(1, records[0].numel() * records.element_size()))
    for first in range(0, len(records), step):
        yield slice(first, first + step)


@dataclass(frozen=True, eq=False)
class Parts:
    """Per-record gradients in parts: [p, n, ...], whose dimensions but n, in this `order`, are the parameter's."""

    parameter: Tensor
    gradients: Tensor
    order: tuple[int, ...]

    @property
    def records(self) -> int:
        return self.gradients.shape[1]

    def grouped(self, copies: int) -> Entry:
        return PerRecord(self.parameter, self.in_order()).grouped(copies)

    def in_order(self) -> Tensor:
        """[n, ...] in the shape of the parameter."""
        order = (0, *(1 + dimension for dimension in self.order))
        return self.gradients.transpose(0, 1).permute(order).reshape(self.records, *self.parameter.shape)

    def squared_norms(self) -> Tensor:
        return squares(self.gradients.flatten(0, 1)).view(-1, self.records).sum(0)

    def select(self, rows: Tensor) -> "Parts":
        return replace(self, gradients=self.gradients[:, rows])

    def added(self, factors: Tensor) -> Tensor:
        value = factors @ self.gradients.flatten(2)
        parts, _, *rest = self.gradients.shape
        return value.view(parts, *rest).permute(self.order).reshape(self.parameter.shape)


def operation(layer: Convolutional, x: Tensor) -> tuple[Convolution, Tensor]:
    """What the layer computes, and of what: x, padded here where the operation cannot do it."""
    dimensions = len(layer.kernel_size)
    if x.dim() != dimensions + 2:
        raise PrivacyError("a convolution got a record without a batch dimension", fix="give the model batches")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    before, after = _padding(layer)
    padding = tuple(before)
    if mode != "constant" or before != after:
        ends = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
        x, padding = F.pad(x, ends, mode), (0,) * dimensions
    return Convolution(layer.weight, layer.bias, layer.stride, padding, layer.dilation, layer.groups), x


def forward(layer: Convolutional, book: Book, x: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    return book.apply(*operation(layer, x))[0]


def _padding(layer: Convolutional) -> tuple[list[int], list[int]]:
    """Before and after each dimension. "same" puts the odd one of an uneven total after, as torch does."""
    if isinstance(layer.padding, str):
        if layer.padding == "valid":
            return [0] * len(layer.kernel_size), [0] * len(layer.kernel_size)
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    return list(layer.padding), list(layer.padding)
