"""Attacks on gradients find what is there, and nothing where the gradient carries noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmodels.audit.imprint import plan_imprint, plant, take_apart
from fedmodels.audit.inversion import Attack, Search, invert_features, invert_gradient, total_variation
from fedmodels.audit.similarity import psnr
from fedmodels.errors import UsageError
from fedmodels.models.losses import loss_fn

ATTACK = Attack(steps=400, restarts=2, learning_rate=0.05, total_variation=0.0)
SHAPE = (1, 8, 8)
LOSS = loss_fn((), "sum")


def a_picture(*seeds: int) -> Tensor:
    return torch.stack([torch.rand(SHAPE, generator=torch.Generator().manual_seed(s)) * 1.8 - 0.9 for s in seeds])


def linear(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    weights = [p for _, p in sorted(model.named_parameters())]
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(LOSS(model(x), y), weights)])


def likeness(found: Tensor, x: Tensor) -> float:
    return float(np.mean([psnr(a.numpy() / 2, b.numpy() / 2) for a, b in zip(found, x, strict=True)]))


def test_the_gradient_of_a_linear_model_gives_the_picture() -> None:
    model, x, y = linear(), a_picture(1), torch.tensor([2])
    found = invert_gradient(model, LOSS, gradient(model, x, y), y, SHAPE, Search(ATTACK, 0))
    assert found.objective < 1e-5
    assert likeness(found.images, x) > 45.0


def test_the_length_of_the_gradient_does_not_matter() -> None:
    model, x, y = linear(), a_picture(1), torch.tensor([2])
    clipped = 1e-3 * gradient(model, x, y)
    assert likeness(invert_gradient(model, LOSS, clipped, y, SHAPE, Search(ATTACK, 0)).images, x) > 45.0


def test_noise_as_large_as_the_gradient_in_every_coordinate_hides_the_picture() -> None:
    """The negative control: the same attack, which is exact without noise."""
    model, x, y = linear(), a_picture(1), torch.tensor([2])
    clean = gradient(model, x, y)
    noise = clean.norm() * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    assert likeness(invert_gradient(model, LOSS, clean + noise, y, SHAPE, Search(ATTACK, 0)).images, x) < 12.0


def test_restarts_keep_the_best_and_every_step_is_counted() -> None:
    model, x, y = linear(), a_picture(1), torch.tensor([2])
    counted: list[int] = []
    short = replace(ATTACK, steps=20, restarts=3)
    once = invert_gradient(model, LOSS, gradient(model, x, y), y, SHAPE, Search(replace(short, restarts=1), 5))
    best = invert_gradient(model, LOSS, gradient(model, x, y), y, SHAPE, Search(short, 5, lambda: counted.append(1)))
    assert best.objective <= once.objective
    assert len(counted) == 60


def test_features_that_keep_everything_give_the_picture() -> None:
    torch.manual_seed(0)
    encoder, x = nn.Conv2d(1, 4, 3, padding=1), a_picture(1, 2)
    attack = replace(ATTACK, steps=600, restarts=1, signs=False)
    found = invert_features(encoder, encoder(x).detach(), SHAPE, Search(attack, 0))
    assert likeness(found.images, x) > 40.0


def test_total_variation_of_a_step() -> None:
    images = torch.zeros(2, 1, 4, 4)
    images[:, :, :, 2:] = 1.0
    assert float(total_variation(images)) == pytest.approx(2 * 4 / 12)


@pytest.mark.parametrize("broken", [lambda g: g * 0, lambda g: g * float("nan"), lambda g: g[1:]])
def test_an_update_that_cannot_be_searched_for_is_refused(broken: Callable[[Tensor], Tensor]) -> None:
    model, x, y = linear(), a_picture(1), torch.tensor([2])
    with pytest.raises(UsageError, match="update of"):
        invert_gradient(model, LOSS, broken(gradient(model, x, y)), y, SHAPE, Search(ATTACK, 0))


# --- imprint --------------------------------------------------------------------------------------------------------


class OneHidden(nn.Module):
    def __init__(self, outputs: int, neurons: int = 256) -> None:
        super().__init__()
        self.dense, self.output = nn.Linear(64, neurons), nn.Linear(neurons, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dense(x.flatten(1)).relu())


def imprinted(outputs: int) -> OneHidden:
    model = OneHidden(outputs)
    plant(plan_imprint(a_picture(*range(100, 400)).flatten(1), 256), model.dense, model.output)
    return model


def read_out(model: OneHidden, flat: Tensor, records: int) -> Tensor:
    """The records in a gradient in the order of names: dense.bias, dense.weight, output.bias, output.weight."""
    bias, weight = flat[:256], flat[256 : 256 + 256 * 64].view(256, 64)
    return take_apart(weight, bias, records)


def errors(found: Tensor, x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return torch.cdist(flat, found).amin(1) / flat.norm(dim=1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_an_imprint_reads_pictures_out_of_a_sum_over_hospitals(outputs: int) -> None:
    model = imprinted(outputs)
    hospitals = [(a_picture(1, 2), torch.tensor([0, 1])), (a_picture(3, 4), torch.tensor([1, 0]))]
    total = sum((gradient(model, x, y) for x, y in hospitals), torch.zeros(()))
    found = read_out(model, total, 4)
    assert float(errors(found, torch.cat([x for x, _ in hospitals])).max()) < 1e-3


def test_clipping_every_patient_does_not_stop_an_imprint() -> None:
    model, x, y = imprinted(1), a_picture(1, 2, 3), torch.tensor([0, 1, 1])
    each = [gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(3)]
    total = torch.stack([g * (0.01 / g.norm()) for g in each]).sum(0)
    assert float(errors(read_out(model, total, 3), x).max()) < 1e-3


def test_noise_stops_an_imprint() -> None:
    """The negative control: with noise of the clip's size every record that is read out is wrong."""
    model, x, y = imprinted(1), a_picture(1, 2, 3), torch.tensor([0, 1, 1])
    each = [gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(3)]
    total = torch.stack([g / g.norm() for g in each]).sum(0)
    noisy = total + torch.randn(total.shape, generator=torch.Generator().manual_seed(0))
    assert float(errors(read_out(model, noisy, 3), x).min()) > 0.5


def test_two_records_between_the_same_thresholds_are_mixed() -> None:
    model, x, y = imprinted(1), a_picture(1, 1), torch.tensor([0, 0])
    x[1] = x[1].flip(2)  # the same mean
    found = read_out(model, gradient(model, x, y), 2)
    assert float(errors(found[:1], x.mean(0, keepdim=True)).max()) < 1e-3
    assert float(errors(found, x).min()) > 0.1


def test_imprints_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="told apart"):
        plan_imprint(torch.ones(5, 64), 8)
    model = OneHidden(1)
    plan = plan_imprint(a_picture(1, 2, 3).flatten(1), 8)
    with pytest.raises(UsageError, match="another size"):
        plant(plan, model.dense, model.output)
    with pytest.raises(UsageError, match="bias"):
        plant(plan, nn.Linear(64, 8, bias=False), nn.Linear(8, 1))
