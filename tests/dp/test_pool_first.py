"""A max-pooling works before the ReLU in front of it where nobody reads in between: same values, same gradients."""

import copy

import pytest
import torch
from model_studies import INPUTS, a_study
from torch import Tensor, nn

from fedmodels.dp.clipping.prepare import prepare
from fedmodels.models.registry import build_model


class Whole(nn.Sequential):
    called_whole = True


def block(relu: nn.Module, pool: nn.Module) -> Whole:
    return Whole(nn.Conv2d(1, 4, 3, padding=1), relu, pool, nn.Flatten(), nn.Linear(4 * 9, 2))


def images() -> Tensor:
    """Also an empty one, whose windows tie at the bias, and one of zeros after the ReLU."""
    x = torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[4] = 0.0
    x[5] = -1e3
    return x


def seen_by(model: nn.Module, kind: type[nn.Module], x: Tensor) -> int:
    """How many numbers the inner function of the layers of a kind works on, found by a spy on torch itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        model(x)
    names = {"aten::relu", "aten::relu_"} if kind is nn.ReLU else {"aten::max_pool2d"}
    shapes = [event.input_shapes[0] for event in profile.events() if event.name in names]
    return sum(int(torch.tensor(shape).prod()) for shape in shapes)


def test_outputs_norms_and_sums_are_those_of_the_stock_model() -> None:
    torch.manual_seed(1)
    model, x = block(nn.ReLU(), nn.MaxPool2d(2)).double(), images()
    with torch.no_grad():
        model[0].bias[0] = -10.0  # a channel that is off everywhere
        model[0].bias[1] = 0.0
    prepared = prepare(model)
    out = prepared.model(x)
    torch.testing.assert_close(out, model(x), rtol=0.0, atol=0.0)
    out.square().sum().backward()
    factors = torch.linspace(0.5, 1.0, len(x), dtype=torch.float64)
    norms = prepared.book.norms()
    prepared.book.add_clipped(factors)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        model(x[i : i + 1]).square().sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        torch.testing.assert_close(
            norms[i], torch.cat([g.flatten() for g in grads.values() if g is not None]).norm(), rtol=1e-9, atol=0.0
        )
        for name, grad in grads.items():
            assert grad is not None
            expected[name] += factors[i] * grad
    for name, p in prepared.model.named_parameters():
        torch.testing.assert_close(prepared.book.sums[p], expected[name], rtol=1e-9, atol=1e-12)


def test_the_relu_works_on_a_quarter_and_the_stock_model_is_left_alone() -> None:
    model, x = block(nn.ReLU(), nn.MaxPool2d(2)).double(), images()
    prepared = prepare(model)
    assert seen_by(prepared.model, nn.ReLU, x) == 6 * 4 * 9
    assert seen_by(model, nn.ReLU, x) == 6 * 4 * 36
    assert seen_by(prepared.model, nn.MaxPool2d, x) == seen_by(model, nn.MaxPool2d, x)


class Shared(nn.Module):
    """The ReLU of the pooled block is called in another place too."""

    def __init__(self) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.first = Whole(nn.Conv2d(1, 4, 3, padding=1), relu, nn.MaxPool2d(2), nn.Flatten())
        self.second = nn.Sequential(nn.Linear(36, 8), relu, nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        return out


def test_a_relu_that_is_called_in_two_places_is_no_matter() -> None:
    model = Shared().double()
    prepared = prepare(model)
    assert seen_by(prepared.model, nn.ReLU, images()) == 6 * (4 * 9 + 8)
    torch.testing.assert_close(prepared.model(images()), model(images()), rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    "model",
    [
        block(nn.ReLU(), nn.AvgPool2d(2)),
        block(nn.Tanh(), nn.MaxPool2d(2)),
        block(nn.LeakyReLU(), nn.MaxPool2d(2)),
    ],
)
def test_anything_else_keeps_its_order(model: nn.Module) -> None:
    model = copy.deepcopy(model).double()
    prepared = prepare(model)
    kinds = [[type(layer) for layer in m.modules()] for m in (prepared.model, model)]
    assert kinds[0] == kinds[1]
    torch.testing.assert_close(prepared.model(images()), model(images()))


class Inside(nn.Module):
    """Reads what is between the ReLU and the pooling, as the skips of a U-Net do."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.out = nn.Linear(4 * (36 + 9), 2)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down[:2](x)
        return self.out(torch.cat([skip.flatten(1), self.down[2](skip).flatten(1)], 1))


class Indices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = block(nn.ReLU(), nn.MaxPool2d(2, return_indices=True))[:3]
        self.out = nn.Linear(4 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        values, places = self.down(x)
        return self.out(values.flatten(1) * places.flatten(1))


def watched() -> nn.Module:
    """Something counts, at the ReLU, the numbers that are on; the copy takes its hook along."""
    model = block(nn.ReLU(), nn.MaxPool2d(2))
    model[1].register_forward_hook(lambda layer, _, out: setattr(layer, "on", int((out > 0).sum())))
    return model


@pytest.mark.parametrize("make", [Inside, Indices, watched])
def test_a_model_that_reads_in_between_has_the_outputs_of_the_stock_model(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = make().double(), images()
    prepared = prepare(model)
    torch.testing.assert_close(prepared.model(x), model(x), rtol=0.0, atol=0.0)
    counts = [getattr(m.get_submodule("1"), "on", None) if make is watched else None for m in (prepared.model, model)]
    assert counts[0] == counts[1]
    prepared.model(x).sum().backward()
    prepared.book.add_clipped(torch.ones(len(x), dtype=torch.float64))
    model(x).sum().backward()
    for one, other in zip(prepared.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(prepared.book.sums[one], other.grad)


def test_the_projects_own_image_models_pool_first() -> None:
    model = build_model(a_study("cnn", INPUTS["cnn"]))
    x = torch.randn(2, 1, 28, 28)
    assert seen_by(prepare(model).model, nn.ReLU, x) < 0.5 * seen_by(model, nn.ReLU, x)
