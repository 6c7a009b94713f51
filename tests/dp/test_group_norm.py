"""GroupNorm's own backward pass against torch's in float64, record by record, in every layout and cut into blocks."""

import pytest
import torch
from torch import Tensor, nn

from fedmodels.dp.clipping import blocks, normalisation
from fedmodels.dp.clipping.normalisation import GroupNormal

LAYOUTS = {
    "channels first": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "neither": lambda x: x.mT.contiguous().mT,
}


def reference(layer: nn.GroupNorm, x: Tensor, g: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The gradients of input, scale and shift of each record alone."""
    exact, found = layer.double(), []
    for one, upstream in zip(x.double().split(1), g.double().split(1), strict=True):
        one = one.contiguous().requires_grad_()
        found.append(torch.autograd.grad(exact(one), (one, exact.weight, exact.bias), upstream.contiguous()))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "block", "width"),
    [
        ((5, 6, 4, 3), None, 512),  # a small batch, which torch's own backward takes
        ((5, 6, 4, 3), 1 << 18, 512),  # all in one block
        ((5, 6, 4, 3), 150, 512),  # some records at a time, and a last block that is not full
        ((3, 6, 7, 5), 40, 18),  # a part of a record at a time; 35 positions do not divide by the 3 that fit in a row
        ((3, 6, 13, 1), 1, 1),  # rows larger than a block
        ((2, 32, 97, 89), 1 << 18, 512),  # the sizes in use: records larger than a block
    ],
)
def test_gradients_are_those_of_every_record_alone(
    layout: str, shape: tuple[int, ...], block: int | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block is not None:
        monkeypatch.setattr(normalisation, "_LARGE", 0)
        monkeypatch.setattr(blocks, "_BLOCK", block)
    monkeypatch.setattr(blocks, "_WIDTH", width)
    torch.manual_seed(6)
    layer = nn.GroupNorm(2, shape[1])
    nn.init.normal_(layer.weight)
    x, g = LAYOUTS[layout](3.0 + torch.randn(shape)), LAYOUTS[layout](torch.randn(shape))
    operation = GroupNormal(layer.weight, layer.bias, 2, layer.eps)
    with torch.no_grad():
        _, saved = operation.forward(x)
        (dx,), (scale, shift) = operation.backward(saved, (g,), (True,))
    assert dx is not None
    expected = [torch.cat([*parts]) for parts in zip(*reference(layer, x, g), strict=True)]
    found = (dx, scale.gradients.flatten(), shift.gradients.flatten())
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("large", [0, 1 << 21])
@torch.no_grad()
def test_the_gradient_lies_in_memory_as_the_input_does_and_is_left_out_where_not_wanted(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "_LARGE", large)
    layer = nn.GroupNorm(2, 6)
    x = torch.randn(2, 6, 4, 3).contiguous(memory_format=torch.channels_last)
    operation = GroupNormal(layer.weight, layer.bias, 2, layer.eps)
    _, saved = operation.forward(x)
    (dx,), _ = operation.backward(saved, (x.clone(),), (True,))
    assert dx is not None
    assert dx.is_contiguous(memory_format=torch.channels_last)
    assert operation.backward(saved, (x.clone(),), (False,))[0] == (None,)


@pytest.mark.parametrize("large", [0, 1 << 21])
@torch.no_grad()
def test_a_batch_without_records_has_gradients_without_records(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "_LARGE", large)
    layer = nn.GroupNorm(2, 6)
    operation = GroupNormal(layer.weight, layer.bias, 2, layer.eps)
    x, none = torch.randn(0, 6, 4, 3), torch.zeros(0, 2)
    (dx,), entries = operation.backward((x, none, none, layer.weight), (x,), (True,))
    assert dx is not None
    assert dx.shape == x.shape
    assert [entry.records for entry in entries] == [0, 0]
