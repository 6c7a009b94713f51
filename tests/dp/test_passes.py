"""Passes of one part of a batch: added up as the part is, in memory of their own, and no further than the part goes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_rules import MODEL, QUIET, STUDY, patients
from torch import Tensor, nn

from client import training
from fedmodels.dp.clipping.book import Book
from fedmodels.dp.clipping.entries import Outer
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import PrivateOptimizer, clip_factors
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource

CLIP = 1.0
WIDTHS = pytest.mark.parametrize("width", [3, 2000], ids=["added up at once", "waits for its part to end"])


class Layer:
    """400 sums of `width` inputs, under a private optimizer without noise to speak of."""

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        prepared = prepare(nn.Linear(width, 400, bias=False))
        self.model, self.book, self.weight = prepared.model, prepared.book, prepared.model.weight
        sgd = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.optimizer = PrivateOptimizer(prepared, sgd, Plan(0.1, CLIP, 1e-9, 1, 1, 1e-5), 1.0, SecureSource())

    def add(self, *passes: Tensor, part_ends: bool = True) -> None:
        for number, x in enumerate(passes, 1):
            self.model(x).sum().backward()
            self.optimizer.accumulate(part_ends=part_ends and number == len(passes))

    def clipped(self, x: Tensor) -> Tensor:
        """The sum as it is defined, in double precision."""
        gradients = x.double()[:, None, :].expand(-1, 400, -1)
        factors = clip_factors(gradients.flatten(1).norm(dim=1), CLIP)
        return torch.einsum("n,nmk->mk", factors, gradients.nan_to_num(0.0, 0.0, 0.0))


def records(width: int, count: int = 9) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


@WIDTHS
@pytest.mark.parametrize("bad", [1e30, float("nan")])
def test_passes_of_a_part_add_up_to_it_and_parts_to_the_batch(width: int, bad: float) -> None:
    """One record's gradient is no number: it is left out of its pass, of its part and of the batch."""
    layer, x = Layer(width), records(width)
    x[4] *= bad * 1e30
    expected = layer.clipped(x)
    layer.add(x[:3], x[3:5], x[5:])
    assert (len(layer.book.sums), layer.book.sums[layer.weight].dtype) == (1, torch.float32)
    torch.testing.assert_close(layer.book.sums[layer.weight].double(), expected, rtol=1e-4, atol=1e-6)
    layer.add(x[:4], x[4:])
    assert layer.book.sums[layer.weight].dtype == torch.float64
    torch.testing.assert_close(layer.book.sums[layer.weight], 2.0 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "steps", "waits"), [((400, 2000), 1, True), ((400, 3), 1, False), ((1, 10_000), 1, False),
                                  ((400, 2000), 2, False)],
)  # fmt: skip
def test_only_what_takes_less_memory_than_its_sum_waits(shape: tuple[int, int], steps: int, waits: bool) -> None:
    outputs, inputs = shape
    entry = Outer(torch.zeros(shape), torch.zeros(1, steps, inputs), torch.zeros(1, steps, outputs))
    assert entry.may_wait == waits


@WIDTHS
def test_inputs_that_are_overwritten_after_they_were_clipped_change_nothing(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control adds up what is in a caller's memory when the part ends, which nobody measured."""

    def longest() -> float:
        layer, buffer = Layer(width), 1e-3 * records(width, 4)
        layer.add(buffer, part_ends=False)
        buffer.mul_(1e6)
        layer.add(buffer)
        return float(layer.book.sums[layer.weight].norm())

    assert 1.0 < longest() <= 8 * CLIP
    monkeypatch.setattr(Outer, "copied", lambda entry: entry)
    assert (longest() > 1000.0) == (width == 2000)


def test_what_waits_keeps_no_more_memory_than_it_has_numbers() -> None:
    """The last states of long sequences, say: a view of all of them."""
    layer, states = Layer(2000), records(2000, 50).view(1, 50, 2000)
    layer.add(states[:, -1], part_ends=False)
    ((kept, _),) = layer.book._waiting[layer.weight]
    assert kept.inputs.untyped_storage().nbytes() == 2000 * 4
    assert kept.inputs.grad_fn is None
    assert kept.inputs._base is None


Taken = Callable[[Layer], Tensor]


def by_step(layer: Layer) -> Tensor:
    before = layer.weight.detach().clone()
    layer.optimizer.step()
    return before - layer.weight.detach()


def by_sum(layer: Layer) -> Tensor:
    return layer.optimizer.clipped_sum().view(layer.weight.shape)


@WIDTHS
@pytest.mark.parametrize("taken", [by_step, by_sum])
def test_a_step_or_a_sum_has_the_part_that_did_not_end_and_a_new_start_has_not(width: int, taken: Taken) -> None:
    layer, x = Layer(width), records(width)
    layer.add(x[:4], x[4:], part_ends=False)
    assert bool(layer.book._waiting) == (width == 2000)
    torch.testing.assert_close(taken(layer).double(), layer.clipped(x), rtol=1e-3, atol=1e-6)
    layer.add(x, part_ends=False)
    layer.optimizer.zero_grad()
    assert taken(layer).norm() < 1e-3


@pytest.mark.parametrize("steps", [0, 2], ids=["a sum", "local steps"])
def test_a_hospital_ends_each_part(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most 8 patients, in passes of at most 3; what did not end would be added up in single precision."""
    monkeypatch.setattr(training, "MOST_IN_SINGLE", 8)
    monkeypatch.setattr(training, "physical_batch", lambda *_: 3)
    counts, add = [0], Book.add_clipped

    def counted(book: Book, factors: Tensor, *, part_ends: bool = True) -> None:
        assert len(factors) <= 3
        counts[-1] += len(factors)
        if part_ends:
            counts.append(0)
        add(book, factors, part_ends=part_ends)

    monkeypatch.setattr(Book, "add_clipped", counted)
    everyone = patients(100)
    if steps:
        training.train_private(STUDY, MODEL, everyone, replace(QUIET, steps_per_release=steps), 100)
    else:
        training.gradient_sum(STUDY, MODEL, everyone, QUIET)
    assert max(counts) <= 8
    assert sum(counts) == 100 * max(1, steps)
    assert np.mean([count for count in counts if count]) > 3.0  # or no part had several passes
