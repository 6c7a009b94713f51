"""The book of one backward pass: who wrote what, how long every record's gradient is, and the clipped sums."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from fedmodels.dp.clipping.entries import Entry, Outer
from fedmodels.errors import PrivacyError

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


class Operation(Protocol):
    """A differentiable function of activations [n, ...] with parameters, as a pair of functions without state."""

    @property
    def forward(self) -> Callable[..., tuple[Tensors, Tensors]]:
        """(outputs, what `backward` needs) of the inputs."""
        ...

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        """(gradients of the inputs, None where not wanted; one entry per trainable parameter).

        gradients: of the outputs, None where an output was not used.
        """
        ...


class Recorder(Protocol):
    """What runs operations for a layer and keeps their entries."""

    def apply(self, operation: Operation, *inputs: Tensor) -> Tensors: ...


class Book:
    """Collects the entries of one backward pass. Every parameter is written at most once, for every record in order.

    What cannot be attributed to a record is refused with a `PrivacyError`: a parameter used outside its layer, a layer
    that ran twice, a batch whose first dimension was not the model's.
    """

    def __init__(self, names: dict[Tensor, str], copies: int = 1) -> None:
        """names: the trainable parameters. copies: adjacent rows of a batch that are one record, see `prepare`."""
        self.names, self.copies = names, copies
        self.sums: dict[Tensor, Tensor] = {}  # of the parts that ended; a parameter without any record has none
        self._part: dict[Tensor, Tensor] = {}  # of the passes of the part that has not ended
        self._waiting: dict[Tensor, list[tuple[Outer, Tensor]]] = {}  # those that are added up when it ends
        self._anchor = torch.zeros((), requires_grad=True)
        self._entries: dict[Tensor, Entry] = {}
        self._records: int | None = None
        for parameter, name in names.items():
            parameter.register_hook(lambda _, name=name: _refuse_outside(name))  # type: ignore[no-untyped-call]

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise PrivacyError(
            "a prepared model cannot be copied", fix="prepare a copy of the model that it was prepared from"
        )

    def open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """Forward pre-hook of the model: note how many records it is given, the first dimension of its first input."""
        inputs = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor | PackedSequence)]
        if not inputs:
            raise PrivacyError("the number of records is unknown: the model was given no tensor", where="model")
        first = inputs[0]
        refuse_short_products(first.data if isinstance(first, PackedSequence) else first)
        self._records = int(first.batch_sizes[0]) if isinstance(first, PackedSequence) else len(first)
        if self._records % self.copies:
            raise PrivacyError(
                f"a batch of {self._records} is not made of records with {self.copies} copies each",
                where="model",
                fix="give the model all copies of a record one after the other",
            )

    def apply(self, operation: Operation, *inputs: Tensor) -> Tensors:
        """The operation's outputs, differentiable; its entries come to this book in the backward pass."""
        if torch.is_autocast_enabled(inputs[0].device.type):
            raise PrivacyError("mixed precision under privacy is not supported", fix="train without autocast")
        outputs: Tensors = _Recorded.apply(self._anchor, self, operation, *inputs)  # type: ignore[no-untyped-call]
        return outputs

    def write_for(self, records: int, entries: list[Entry]) -> None:
        """Write entries of so many records that no model was given: those of an audit (`fedmodels.dp.canaries`)."""
        self._records = records
        self._keep(entries, 1)

    def write(self, entries: list[Entry]) -> None:
        """Keep the entries of one layer, those of a record's copies added up."""
        self._keep(entries, self.copies)

    def _keep(self, entries: list[Entry], copies: int) -> None:
        for entry in entries:
            name = self.names.get(entry.parameter)
            if name is None or entry.parameter in self._entries:
                raise PrivacyError(
                    "a layer was used more than once before its gradients were clipped",
                    where=name or "model",
                    fix="call every layer once per forward pass, and `accumulate()` after each backward pass",
                )
            if entry.records != self._records:
                raise PrivacyError(
                    f"the layer got a batch of {entry.records}, the model one of {self._records}",
                    where=name,
                    fix="keep records in the first dimension (or say `batch_first`) all through the model",
                )
            self._entries[entry.parameter] = entry if copies == 1 else entry.grouped(copies)

    @torch.no_grad()
    def norms(self) -> Tensor:
        """[n] float64 norm over all parameters of each record of the last backward pass; inf where it overflowed.

        Within 1e-5 relative of the norm of exactly what `add_clipped` adds; larger where a record's terms cancel to a
        thousandth of their lengths or less, see `entries.at_least`.
        """
        if not self._entries:
            return torch.zeros(0, dtype=torch.float64)
        total = torch.stack([entry.squared_norms() for entry in self._entries.values()]).sum(0)
        return total.where(total <= torch.finfo(torch.float32).max, torch.inf).sqrt()

    @torch.no_grad()
    def add_clipped(self, factors: Tensor, *, part_ends: bool = True) -> None:
        """Add sum_i factors[i] * gradient_i to the part of the batch that this pass is of, and forget the pass.

        A part that ends goes into `sums`, which are float64 from the second part on: errors of single precision are
        those of one part, however many follow.

        factors: [n]. A record of factor 0 has no influence, whatever its gradient: also not by 0 * nan.
        """
        rows = factors.nonzero().view(-1)
        every = len(rows) == len(factors)
        taken = factors if every else factors[rows]
        while self._entries:
            parameter, entry = self._entries.popitem()
            kept = entry if every else entry.select(rows)
            weights = taken.to(parameter.dtype)
            if isinstance(kept, Outer) and kept.may_wait and (parameter in self._waiting or not part_ends):
                self._waiting.setdefault(parameter, []).append((kept.copied(), weights))
            else:
                self._add(parameter, kept.added(weights))
        if part_ends:
            self.end_part()

    @torch.no_grad()
    def end_part(self) -> None:
        """What is clipped next is of another part."""
        while self._waiting:
            parameter, waiting = self._waiting.popitem()
            entries, factors = zip(*waiting, strict=True)
            self._add(parameter, Outer.joined(entries).added(torch.cat(factors)))
        while self._part:
            parameter, value = self._part.popitem()
            before = self.sums.get(parameter)
            self.sums[parameter] = value if before is None else before.double().add_(value)

    def _add(self, parameter: Tensor, value: Tensor) -> None:
        before = self._part.get(parameter)
        self._part[parameter] = value if before is None else before.add_(value)

    def clear(self) -> None:
        """Forget the last backward pass and the sums."""
        for kept in (self._entries, self._waiting, self._part, self.sums):
            kept.clear()


def refuse_short_products(x: Tensor) -> None:
    """TF32 rounds each factor to 11 bits and bfloat16 to 8: a sum would have up to 0.1% or 1% more than was clipped."""
    backend = torch.backends.cuda if x.device.type == "cuda" else torch.backends.mkldnn
    if (precision := backend.matmul.fp32_precision) not in ("none", "ieee"):
        raise PrivacyError(
            f"torch is set to multiply matrices in {precision}: a record could move the sum by more than the clip",
            fix='torch.set_float32_matmul_precision("highest"), and no TORCH_ALLOW_TF32_CUBLAS_OVERRIDE',
        )


def _refuse_outside(name: str) -> NoReturn:
    raise PrivacyError(
        "a parameter was used outside its layer, so its gradient cannot be told apart by record",
        where=name,
        fix="use parameters only by calling the layer that they belong to; put no penalty on weights into the loss",
    )


class _Recorded(torch.autograd.Function):
    """One call of an operation. The anchor makes autograd call `backward` also where the inputs are data."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, book: Book, operation: Operation, *inputs: Tensor) -> Tensors:  # noqa: ARG004, ANN401
        outputs, saved = operation.forward(*inputs)
        ctx.save_for_backward(*saved)
        ctx.set_materialize_grads(False)
        ctx.book, ctx.operation = book, operation
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Gradients:  # noqa: ANN401
        inputs, entries = ctx.operation.backward(ctx.saved_tensors, gradients, ctx.needs_input_grad[3:])
        ctx.book.write(entries)
        return (None, None, None, *inputs)
