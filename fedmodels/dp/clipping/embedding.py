"""Embeddings: a record's gradient touches only the rows of its tokens, and [n, vocabulary, width] is never made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, merged, plus, squares
from fedmodels.errors import PrivacyError


@dataclass(frozen=True, eq=False)
class Rows:
    """Gradients of a table [v, d], by the row that was looked up.

    ids: [n, t] int64; outputs: [n, t, d] gradient of each looked-up row; unused: a row that gets no gradient, or -1.
    """

    parameter: Tensor
    ids: Tensor
    outputs: Tensor
    unused: int

    @property
    def records(self) -> int:
        return len(self.ids)

    def grouped(self, copies: int) -> "Rows":
        return replace(self, ids=merged(self.ids, copies), outputs=merged(self.outputs, copies))

    def squared_norms(self) -> Tensor:
        """A record's gradients of equal ids add up before they are squared; most ids occur once."""
        count, steps = self.ids.shape
        values = self.outputs.reshape(count * steps, self.outputs.shape[2])
        owners = torch.arange(count, device=self.ids.device).repeat_interleave(steps)
        keys, order = (owners * len(self.parameter) + self.ids.reshape(-1)).sort()
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = keys[1:] != keys[:-1]
        repeated = ~first
        repeated[:-1] |= ~first[1:]
        lengths = squares(values)
        places = repeated.nonzero().view(-1)
        rows = order[places]
        lengths[rows] = 0.0
        runs = first[places].cumsum(0) - 1
        starts = rows[first[places]]
        sums = values.new_zeros(len(starts), values.shape[1], dtype=torch.float64)
        lengths[starts] = sums.index_add_(0, runs, values[rows].double()).square().sum(1)
        lengths = lengths.where(self.ids.reshape(-1) != self.unused, 0.0)
        return lengths.view(count, steps).sum(1)

    def select(self, rows: Tensor) -> "Rows":
        return replace(self, ids=self.ids[rows], outputs=self.outputs[rows])

    def added(self, factors: Tensor, total: Tensor | None) -> Tensor:
        value: Tensor = torch.ops.aten.embedding_dense_backward(
            self.outputs * factors[:, None, None], self.ids, len(self.parameter), self.unused, False
        )
        return plus(total, value)


@dataclass(frozen=True, eq=False)
class Lookup:
    """ids [n, ...] -> [n, ..., d]."""

    weight: Tensor
    unused: int

    def forward(self, ids: Tensor) -> tuple[Tensors, Tensors]:
        return (F.embedding(ids, self.weight),), (ids,)

    def backward(
        self,
        saved: Tensors,
        gradients: Gradients,
        wanted: Sequence[bool],  # noqa: ARG002 - ids have no gradient
    ) -> tuple[Gradients, list[Entry]]:
        (ids,), (g,) = saved, gradients
        return (None,), [] if g is None else self.entries(ids, g)

    def entries(self, ids: Tensor, g: Tensor) -> list[Entry]:
        """That of the table, if it is trainable; g [n, ..., d]: the gradient of the output."""
        if not self.weight.requires_grad:
            return []
        ids = ids.reshape(len(ids), ids[:1].numel())
        return [Rows(self.weight, ids, g.reshape(*ids.shape, g.shape[-1]), self.unused)]


def operation(layer: nn.Embedding, ids: Tensor) -> tuple[Lookup, Tensor]:
    """What the layer computes, and of what."""
    return Lookup(layer.weight, -1 if layer.padding_idx is None else layer.padding_idx), ids


def forward(layer: nn.Embedding, book: Book, ids: Tensor) -> Tensor:
    """The layer's output, its gradients recorded."""
    return book.apply(*operation(layer, ids))[0]


def check(layer: nn.Embedding) -> None:
    """`PrivacyError` for options under which records influence each other's gradient or the weights themselves."""
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise PrivacyError(
            "an embedding with `max_norm`, `scale_grad_by_freq` or `sparse` cannot be clipped per record",
            fix="leave these options of nn.Embedding at their defaults",
        )
