"""What a layer writes down about the per-record gradients of one parameter, and how it is measured and added up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

MOST_IN_SINGLE = 192  # records whose clipped gradients are added in single precision
_BLOCK = 1024  # float32 sums of so few squares are right to 1e-7; blocks are added up in float64
_CHUNK_BYTES = 1 << 26  # what is made only to be measured or added up in double precision
_MADE_BYTES = 1 << 20  # a record's gradient of one matrix that is made and kept, so that it is made once
_UNDERFLOW = 2.0**-126  # squares below it may be lost in single precision
_FLOOR = 2.0**-36
_CANCELS = 2.0**-10  # of the squared sum of the terms' lengths


class Entry(Protocol):
    """The gradients of one parameter for n records. Values are float32 or float64, as the parameter is."""

    @property
    def parameter(self) -> Tensor: ...

    @property
    def records(self) -> int: ...

    def grouped(self, copies: int) -> "Entry":
        """The same for n / copies records: the gradient of each is the sum over so many adjacent ones of these."""
        ...

    def squared_norms(self) -> Tensor:
        """[n] float64; not finite where a gradient is not, or its squares overflow the parameter's type."""
        ...

    def select(self, rows: Tensor) -> "Entry":
        """The same of some records; rows: [k] int64."""
        ...

    def added(self, factors: Tensor) -> Tensor:
        """sum_i factors[i] * gradient_i, a tensor of its own in the parameter's type, as factors [n] are."""
        ...


def squares(values: Tensor) -> Tensor:
    """[n] float64 sums of squares of values [n, ...], accurate to 1e-7 relative whatever the length."""
    flat = values.reshape(len(values), values[:1].numel())
    if flat.shape[1] <= _BLOCK:
        short: Tensor = torch.linalg.vector_norm(flat, dim=1).double().square()
        return short
    whole = flat.shape[1] // _BLOCK * _BLOCK
    blocks = flat[:, :whole].reshape(len(flat), whole // _BLOCK, _BLOCK)
    rest = torch.linalg.vector_norm(flat[:, whole:], dim=1, dtype=torch.float64).square()
    total: Tensor = rest + torch.linalg.vector_norm(blocks, dim=2).double().square().sum(1)
    return total


def at_least(squared: Tensor, lengths: Tensor, additions: int) -> Tensor:
    """[n] squared norms of sums of t terms each, none smaller than what rounding can hide where terms cancel.

    squared: [n], computed in float64; lengths: [n, t] norm of each term; additions: r >= 2t, the most in a row that are
    behind a number of `squared`. With u = 2^-53 and S a record's sum of lengths:

    - `squared` is wrong by at most r u S^2. So nothing is reported below r 2^-36 S^2, and at least that the error is
      2^-17 of it, 4e-6 of the norm.
    - A factor of at most C / norm then leaves factor * S <= C 2^18 / sqrt(r). Adding up the terms of n records in
      float64 is wrong by at most n t u times the sum of factor * S, which is at most n^2 sqrt(r) 2^-36 C: for 192
      records and r = 2^17, as for 51M weights, 2^-12 C. In float32, one record's S would have no such bound.

    Only a record whose terms cancel to about a thousandth of S is reported as larger than it is.
    """
    return torch.maximum(squared, additions * _FLOOR * lengths.double().sum(1).square())


def merged(values: Tensor, copies: int) -> Tensor:
    """[n / copies, copies * t, ...] of values [n, t, ...]: adjacent records become one with all their positions."""
    return values.reshape(len(values) // copies, copies * values.shape[1], *values.shape[2:])


@dataclass(frozen=True, eq=False)
class PerRecord:
    """The gradients themselves: [n, ...], the rest in the shape of the parameter. squared: [n] norms known before."""

    parameter: Tensor
    gradients: Tensor
    squared: Tensor | None = None

    @property
    def records(self) -> int:
        return len(self.gradients)

    def grouped(self, copies: int) -> "Summed":
        return Summed(self.parameter, merged(self.gradients.flatten(1)[:, None], copies))

    def squared_norms(self) -> Tensor:
        return squares(self.gradients) if self.squared is None else self.squared

    def select(self, rows: Tensor) -> "PerRecord":
        return PerRecord(self.parameter, self.gradients[rows], None if self.squared is None else self.squared[rows])

    def added(self, factors: Tensor) -> Tensor:
        value = factors @ self.gradients.reshape(len(factors), self.parameter.numel())
        return value.view(self.parameter.shape)


@dataclass(frozen=True, eq=False)
class Outer:
    """Gradients of a matrix [m, k] that are sums over t of the outer products g_t a_t^T and are never all made.

    inputs: [n, t, k] a; outputs: [n, t, m] g. With t = 1 the norm is |a| |g|.
    """

    parameter: Tensor
    inputs: Tensor
    outputs: Tensor

    @property
    def records(self) -> int:
        return len(self.inputs)

    def grouped(self, copies: int) -> Entry:
        """The copies are further positions of their record."""
        return matrix_entry(self.parameter, merged(self.inputs, copies), merged(self.outputs, copies))

    def squared_norms(self) -> Tensor:
        steps, sides = self.inputs.shape[1], self.inputs.shape[2] + self.outputs.shape[2]
        if steps == 1:
            return _not_lost(self.inputs) * _not_lost(self.outputs)
        gram = steps * sides < self.parameter.numel()
        size = 8 * steps * (2 * steps + sides) if gram else 8 * (steps * sides + self.parameter.numel())
        chunk = max(1, _CHUNK_BYTES // max(1, size))
        parts = zip(torch.split(self.inputs, chunk), torch.split(self.outputs, chunk), strict=True)
        doubles = ((a.double(), g.double()) for a, g in parts)
        squared = torch.cat([_gram(a, g) if gram else squares(g.mT @ a) for a, g in doubles])
        return at_least(squared, _lengths(self.outputs, self.inputs), sides + 2 * steps)

    def select(self, rows: Tensor) -> "Outer":
        return replace(self, inputs=self.inputs[rows], outputs=self.outputs[rows])

    @property
    def may_wait(self) -> bool:
        """Whether a copy until its part ends takes less memory than the sum: one product is then made of all."""
        steps, sides = self.inputs.shape[1], self.inputs.shape[2] + self.outputs.shape[2]
        return steps == 1 and MOST_IN_SINGLE * sides <= self.parameter.numel()

    def copied(self) -> "Outer":
        """In memory of its own: what was measured is what is added up, whatever becomes of the model's inputs."""
        return replace(self, inputs=self.inputs.detach().clone(), outputs=self.outputs.detach().clone())

    @staticmethod
    def joined(entries: "Sequence[Outer]") -> "Outer":
        """The records of all of them, which are of one parameter."""
        first, *_ = entries
        inputs, outputs = ([getattr(e, side) for e in entries] for side in ("inputs", "outputs"))
        return replace(first, inputs=torch.cat(inputs), outputs=torch.cat(outputs))

    def added(self, factors: Tensor) -> Tensor:
        right = self.inputs.flatten(0, 1)
        if self.inputs.shape[1] > 1:
            left = (self.outputs.double() * factors.double()[:, None, None]).flatten(0, 1).t()
            return _product(left, right)
        return (self.outputs * factors[:, None, None]).flatten(0, 1).t() @ right


@dataclass(frozen=True, eq=False)
class Summed:
    """Gradients that are sums over t terms: of the outer products g_t a_t^T (a matrix), or of g_t; made when measured.

    outputs: [n, t, m] g; inputs: [n, t, k] a, None without.

    Guarantee: a record's gradient follows from its own terms, and those that cancel leave no rounding residue that
    would be clipped to C as if it were a gradient. With u = 2^-24 and S a record's sum of the terms' lengths, adding up
    in single precision is wrong by at most t u S, which no floor for norms could make little of. So

    - below S / 32, the sum is made again in double precision and rounded once. That error, t 2^-53 S, times a factor of
      at most C / (sqrt(2t) 2^-18 S) (`at_least`) is below sqrt(t) 2^-35 C.
    - from S / 32 on, t u S is at most 32 t u of the norm: were terms added in another order, the clipped gradient would
      move by at most twice that, 2e-4 C for t = 48, and in practice by about 1e-6 C. A product over t has the same
      sizes for each record whoever else is there, so that libraries have no reason to do so.

    Which of both does not depend on other records; at S / 32 they differ by no more than that. What is measured is what
    is added up.
    """

    parameter: Tensor
    outputs: Tensor
    inputs: Tensor | None = None

    @property
    def records(self) -> int:
        return len(self.outputs)

    def grouped(self, copies: int) -> Entry:
        """The copies are further terms of their record."""
        outputs = merged(self.outputs, copies)
        if self.inputs is None:
            return Summed(self.parameter, outputs)
        return matrix_entry(self.parameter, merged(self.inputs, copies), outputs)

    def squared_norms(self) -> Tensor:
        return self.made.squared_norms()

    def select(self, rows: Tensor) -> PerRecord:
        return self.made.select(rows)

    def added(self, factors: Tensor) -> Tensor:
        return self.made.added(factors)

    @cached_property
    def made(self) -> PerRecord:
        """The sums, and their squared norms."""
        gradients = _sum_of_terms(self.outputs, self.inputs)
        squared, lengths = squares(gradients), _lengths(self.outputs, self.inputs)
        cancelling = (squared < _CANCELS * lengths.sum(1).square()).nonzero().view(-1)
        terms = self.outputs.shape[1] * (self.outputs.shape[2] + (0 if self.inputs is None else self.inputs.shape[2]))
        for rows in torch.split(cancelling, max(1, _CHUNK_BYTES // max(1, 8 * (terms + self.parameter.numel())))):
            inputs = None if self.inputs is None else self.inputs[rows].double()
            gradients[rows] = _sum_of_terms(self.outputs[rows].double(), inputs).to(gradients.dtype)
            squared[rows] = squares(gradients[rows])
        squared = at_least(squared, lengths, 2 * self.outputs.shape[1])
        return PerRecord(self.parameter, gradients.view(self.records, *self.parameter.shape), squared)


def _sum_of_terms(outputs: Tensor, inputs: Tensor | None) -> Tensor:
    return outputs.sum(1) if inputs is None else outputs.mT @ inputs


def _lengths(outputs: Tensor, inputs: Tensor | None) -> Tensor:
    """[n, t] float64 length of each term."""
    lengths: Tensor = torch.linalg.vector_norm(outputs, dim=2).double()
    return lengths if inputs is None else lengths.mul_(torch.linalg.vector_norm(inputs, dim=2))


def _not_lost(values: Tensor) -> Tensor:
    """[n] squares of values [n, 1, k], with all that may be lost by underflow: their partners may be very large."""
    return squares(values) + values.shape[2] * _UNDERFLOW


def _gram(inputs: Tensor, outputs: Tensor) -> Tensor:
    """[n] |sum_t g_t a_t^T|^2 = sum_{s,t} (a_s . a_t) (g_s . g_t) of float64, as its terms may cancel; first over t."""
    products = (inputs @ inputs.mT).mul_(outputs @ outputs.mT)
    return products.sum(2).sum(1).clamp_(min=0.0)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """[m, k] of left [m, r] float64 and right [r, k], added up in float64, in the type of `right`."""
    out = right.new_empty(len(left), right.shape[1])
    width = max(1, _CHUNK_BYTES // (8 * (len(left) + len(right))))
    for some in (slice(first, first + width) for first in range(0, out.shape[1], width)):
        out[:, some] = left @ right[:, some].double()
    return out


def matrix_entry(parameter: Tensor, inputs: Tensor, outputs: Tensor) -> Entry:
    """The cheaper entry for a matrix: its gradients where they are small, otherwise what they are made of.

    inputs: [n, t, k]; outputs: [n, t, m]. Chosen by the sizes of one record alone, which are public: were it by n, one
    patient more would change how the gradients of all others are rounded. Made are those of at most 1 MiB and not much
    larger than what they are made of, which is in memory anyway.
    """
    steps, sides = inputs.shape[1], inputs.shape[2] + outputs.shape[2]
    small = parameter.numel() * parameter.element_size() <= _MADE_BYTES and parameter.numel() <= 8 * steps * sides
    if steps > 1 and small:
        return Summed(parameter, outputs, inputs)
    return Outer(parameter, inputs, outputs)


def vector_entry(parameter: Tensor, outputs: Tensor) -> Entry:
    """For a vector that is added at every position; outputs: [n, t, m]."""
    return PerRecord(parameter, outputs[:, 0]) if outputs.shape[1] == 1 else Summed(parameter, outputs)
