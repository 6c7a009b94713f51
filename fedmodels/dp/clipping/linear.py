"""Dense layers: y = x W^T + b at one or several positions of a record."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, matrix_entry, vector_entry
from fedmodels.errors import PrivacyError


@dataclass(frozen=True, eq=False)
class Dense:
    """x [n, ..., k] -> [n, ..., m]."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> tuple[Tensors, Tensors]:
        return (F.linear(x, self.weight, self.bias),), (x, self.weight)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, weight = saved
        (g,) = gradients
        if g is None:
            return (None,), []
        return (g @ weight if wanted[0] else None,), self.entries(x, g)

    def entries(self, x: Tensor, g: Tensor) -> list[Entry]:
        """One for each trainable parameter; g [n, ..., m]: the gradient of the output."""
        positions = prod(x.shape[1:-1])
        a, b = x.reshape(len(x), positions, x.shape[-1]), g.reshape(len(g), positions, g.shape[-1])
        entries: list[Entry] = []
        if self.weight.requires_grad:
            entries.append(matrix_entry(self.weight, a, b))
        if self.bias is not None and self.bias.requires_grad:
            entries.append(vector_entry(self.bias, b))
        return entries


def operation(layer: nn.Linear, x: Tensor) -> tuple[Dense, Tensor]:
    """What the layer computes, and of what."""
    if x.dim() < 2:
        raise PrivacyError("a dense layer got a record without a batch dimension", fix="give the model batches")
    return Dense(layer.weight, layer.bias), x


def forward(layer: nn.Linear, book: Book, x: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    return book.apply(*operation(layer, x))[0]
