"""Embeddings: a record's gradient touches only the rows of its tokens, and [n, vocabulary, width] is never made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedmodels.dp.clipping.book import Book, Gradients, Tensors
from fedmodels.dp.clipping.entries import Entry, merged, squares
from fedmodels.errors import PrivacyError


@dataclass(frozen=True, eq=False)
class Rows:
    """Gradients of a table [v, d], by the row that was looked up.

    ids: [n, t] int64; outputs: [n, t, d] gradient of each looked-up row, of rows that a record looks up several times
    at one place (`of` sees to it): what is measured is what is added up; unused: a row that gets no gradient, or -1.
    """

    parameter: Tensor
    ids: Tensor
    outputs: Tensor
    unused: int

    @classmethod
    def of(cls, parameter: Tensor, ids: Tensor, outputs: Tensor, unused: int) -> "Rows":
        """outputs: [n, t, d] gradient at each place."""
        return cls(parameter, ids, combined(ids, outputs, len(parameter)), unused)

    @property
    def records(self) -> int:
        return len(self.ids)

    def grouped(self, copies: int) -> "Rows":
        return Rows.of(self.parameter, merged(self.ids, copies), merged(self.outputs, copies), self.unused)

    def squared_norms(self) -> Tensor:
        count, steps, width = self.outputs.shape
        lengths = squares(self.outputs.reshape(count * steps, width)).view(count, steps)
        return lengths.where(self.ids != self.unused, 0.0).sum(1)

    def select(self, rows: Tensor) -> "Rows":
        return replace(self, ids=self.ids[rows], outputs=self.outputs[rows])

    def added(self, factors: Tensor) -> Tensor:
        value: Tensor = torch.ops.aten.embedding_dense_backward(
            self.outputs * factors[:, None, None], self.ids, len(self.parameter), self.unused, False
        )
        return value


def combined(ids: Tensor, outputs: Tensor, size: int) -> Tensor:
    """[n, t, d] with the gradients of equal ids of a record added up at one of their places, and 0 at the others.

    In float64, rounded once: they may cancel. Most ids occur once, and keep theirs. size: of the table.
    """
    count, steps, width = outputs.shape
    owners = torch.arange(count, device=ids.device).repeat_interleave(steps)
    keys, order = (owners * size + ids.reshape(-1)).sort()
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    repeated = ~first
    repeated[:-1] |= ~first[1:]
    places = repeated.nonzero().view(-1)
    if not len(places):
        return outputs
    rows = order[places]
    values = outputs.reshape(count * steps, width).clone()
    sums = values.new_zeros(int(first[places].sum()), width, dtype=torch.float64)
    sums.index_add_(0, first[places].cumsum(0) - 1, values[rows].double())
    values[rows] = 0.0
    values[rows[first[places]]] = sums.to(values.dtype)
    return values.view(count, steps, width)


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
        return [Rows.of(self.weight, ids, g.reshape(*ids.shape, g.shape[-1]), self.unused)]


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
