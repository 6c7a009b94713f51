"""Small trained models of which it is known what they go by, shared by the tests of this folder."""

from functools import cache

import torch
from model_studies import IMAGE, SERIES, TEXT, a_study
from torch import Tensor, nn

from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import build_model

STEPS, SIGNAL = 6, 7  # steps of the series; the bucket whose presence is the label of the texts
Planted = tuple[nn.Module, Tensor, Tensor | None, Tensor]


def corners(where: int) -> tuple[slice, slice]:
    """Rows and columns of the four places where a bright patch may be."""
    row, column = divmod(where, 2)
    return slice(2 + 14 * row, 10 + 14 * row), slice(2 + 14 * column, 10 + 14 * column)


@cache
def images() -> tuple[Planted, tuple[int, ...]]:
    """Noise with a patch: bright in one of four places (label 1), or none. The patch's place of each image."""
    draw = torch.Generator().manual_seed(1)
    x = 0.3 * torch.randn(96, 1, 28, 28, generator=draw)
    y = torch.randint(0, 2, (96,), generator=draw)
    places = torch.randint(0, 4, (96,), generator=draw).tolist()
    for image, label, place in zip(x, y.tolist(), places, strict=True):
        rows, columns = corners(place)
        image[0, rows, columns] += 0.7 * label
    return _fit(build_model(a_study("cnn", IMAGE)), x.clamp(-1.0, 1.0), None, y, 30), tuple(places)


@cache
def series() -> Planted:
    """Two variables and a static, always measured; the label is whether the last value of `b` is above the middle."""
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(256, STEPS, 8, generator=draw)
    for channel, constant in ((1, 1.0), (2, 0.0), (4, 1.0), (5, 0.0), (7, 0.0)):
        x[..., channel] = constant
    x[..., 6] = x[:, :1, 6]
    return _fit(build_model(a_study("gru", SERIES)), x, torch.full((256,), STEPS), (x[:, -1, 3] > 0.5).long(), 150)


@cache
def texts() -> Planted:
    """Seven random tokens; the label is whether one of them is SIGNAL."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(8, 50, (1024, 7), generator=draw)
    y = torch.randint(0, 2, (1024,), generator=draw)
    places = torch.randint(0, 7, (1024,), generator=draw)
    x[y == 1, places[y == 1]] = SIGNAL
    return _fit(build_model(a_study("text-gru", TEXT)), x, torch.full((1024,), 7), y, 50)


def _fit(model: nn.Module, x: Tensor, lengths: Tensor | None, y: Tensor, steps: int) -> Planted:
    optimiser, loss = torch.optim.Adam(model.parameters(), lr=0.01), loss_fn()
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model(x, lengths), y).backward()
        optimiser.step()
    return model.eval(), x, lengths, y
