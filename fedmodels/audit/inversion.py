"""Gradient inversion (Geiping et al., NeurIPS 2020): images whose gradient points where an observed update points.

The attacker knows the model, the number of records behind the update and their labels, and looks for images with the
same gradient. Only the direction of the gradient is compared, so that clipping one record's gradient hides nothing.

What comes out is a lower bound on what can be seen: a better attack may see more. Max-pooling and ReLU make the
objective uneven, and a search from a few random starts often ends before the best images that are there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmodels.errors import UsageError

LossFn = Callable[[Tensor, Tensor], Tensor]
Objective = Callable[[Tensor], Tensor]
OnStep = Callable[[], None]

_START_DEVIATION = 0.01  # around mid-grey: the attacker knows nothing, and noise is hard to smooth away again


@dataclass(frozen=True)
class Attack:
    """What an inversion may spend.

    steps: of each restart; learning_rate: of a pixel in [-1, 1] per step at first, less along half a cosine;
    total_variation: weight of `total_variation` beside the objective; signs: follow the signs of the
    gradient alone, as Geiping et al. do, which suits an uneven objective.
    """

    steps: int
    restarts: int
    learning_rate: float
    total_variation: float
    signs: bool = True


@dataclass(frozen=True)
class Search:
    """How to search. seed: of the starting points; on_step: called after every step, for a progress bar."""

    attack: Attack
    seed: int
    on_step: OnStep = lambda: None


@dataclass(frozen=True, repr=False)
class Inversion:
    """images: [n, channels, height, width] in [-1, 1]; objective: what is left of it, 0 where gradients agree."""

    images: Tensor
    objective: float


def invert_gradient(
    model: nn.Module,
    loss: LossFn,
    observed: Tensor,
    labels: Tensor,
    shape: Sequence[int],
    run: Search,
) -> Inversion:
    """Images of `shape` [channels, height, width], one per label, whose summed gradient is parallel to `observed`.

    observed: [D] in the order of `fedmodels.models.weights.flatten`, of any length but 0; labels: [n] int64; loss: a
    sum or a mean over records, the same that was trained with.

    Minimises 1 - cosine + total variation (Geiping et al., section 3, equation 4).
    """
    weights = [p for _, p in sorted(model.named_parameters())]
    if observed.shape != (sum(p.numel() for p in weights),):
        raise UsageError(f"an update of shape {tuple(observed.shape)} is not of this model")
    length = observed.norm()
    if not bool(torch.isfinite(length)) or float(length) == 0.0:
        raise UsageError("an update of zeros or without a finite length has no direction to search for")
    target = observed / length

    def objective(images: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss(model(images), labels), weights, create_graph=True)
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distance: Tensor = 1.0 - flat @ target / flat.norm().clamp(min=torch.finfo(flat.dtype).tiny)
        return distance

    return _search(objective, (len(labels), *shape), run)


def invert_features(encoder: nn.Module, features: Tensor, shape: Sequence[int], run: Search) -> Inversion:
    """Images of `shape` that an encoder maps to `features` [n, ...] (Mahendran & Vedaldi, CVPR 2015).

    Minimises the sum over records of the squared error relative to the features' length, plus total variation.
    """
    flat = features.flatten(1)
    scale = flat.square().sum(1).clamp(min=torch.finfo(flat.dtype).tiny)

    def objective(images: Tensor) -> Tensor:
        errors: Tensor = (encoder(images).flatten(1) - flat).square().sum(1) / scale
        return errors.sum()

    return _search(objective, (len(features), *shape), run)


def total_variation(images: Tensor) -> Tensor:
    """Sum over images of the mean absolute difference of vertical neighbours plus that of horizontal ones."""
    vertical = (images[:, :, 1:] - images[:, :, :-1]).abs().mean()
    horizontal = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean()
    return len(images) * (vertical + horizontal)


def _search(objective: Objective, shape: tuple[int, ...], run: Search) -> Inversion:
    generator = torch.Generator().manual_seed(run.seed)
    found = [_descend(objective, shape, run, generator) for _ in range(run.attack.restarts)]
    return min(found, key=lambda inversion: inversion.objective)


def _descend(objective: Objective, shape: tuple[int, ...], run: Search, generator: torch.Generator) -> Inversion:
    """One restart of Adam, pixels kept in range; the best images on the way."""
    attack = run.attack
    images = (_START_DEVIATION * torch.randn(shape, generator=generator)).requires_grad_()
    optimiser = torch.optim.Adam([images], lr=attack.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, attack.steps)
    best = Inversion(images.detach().clone(), float("inf"))
    for _ in range(attack.steps):
        distance = objective(images)
        if (value := float(distance.detach())) < best.objective:
            best = Inversion(images.detach().clone(), value)
        (gradient,) = torch.autograd.grad(distance + attack.total_variation * total_variation(images), images)
        images.grad = gradient.nan_to_num().sign() if attack.signs else gradient.nan_to_num()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(-1.0, 1.0)
        run.on_step()
    return best
