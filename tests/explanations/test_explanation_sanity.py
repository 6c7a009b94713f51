"""Adebayo et al. (NeurIPS 2018): an explanation has to change when the model's weights are replaced by random ones.

The weights of a trained model are replaced layer by layer, from the output to the input. An explanation that stays as
it was shows the input, not what the model does with it: the edges of an image, which are the negative control.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from model_studies import SERIES, a_study
from planted import Planted, images, series, texts
from scipy.ndimage import sobel
from scipy.stats import spearmanr
from torch import Tensor, nn

from fedmodels.evaluation.explanations.attribution import (
    Floats,
    explain_image,
    explain_series,
    explain_text,
    grad_cam,
)
from fedmodels.evaluation.explanations.figures import neighbourhoods

Explain = Callable[[nn.Module, Tensor, Tensor | None], Floats]
_LIKE = 0.4


def cascade(model: nn.Module) -> list[nn.Module]:
    """Copies of the model with fresh weights in its last layer, its last two, ..., in all of them."""
    stages, changed = [], copy.deepcopy(model)
    layers = [module for module in changed.modules() if list(module.parameters(recurse=False))]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for layer in reversed(layers):
            for parameter in layer.parameters(recurse=False):
                nn.init.normal_(parameter, std=max(1e-3, float(parameter.detach().std(correction=0))))
            stages.append(copy.deepcopy(changed))
    return stages


def similarities(explain: Explain, planted: Planted) -> list[float]:
    """Mean rank correlation with the trained model's explanations, at each stage of the cascade."""
    model, x, lengths, y = planted
    rows = np.flatnonzero(y.numpy() == 1)[: 4 if lengths is None else 20].tolist()
    records = [(x[row : row + 1], None if lengths is None else lengths[row : row + 1]) for row in rows]
    before = [explain(model, *record).ravel() for record in records]
    return [
        float(
            np.mean([_like(old, explain(stage, *record).ravel()) for old, record in zip(before, records, strict=True)])
        )
        for stage in cascade(model)
    ]


def passes(stages: list[float]) -> bool:
    """The check: with all weights random, the explanation is unlike that of the trained model."""
    return abs(stages[-1]) < _LIKE


def _like(one: Floats, other: Floats) -> float:
    """1 for equal order; an explanation that is the same everywhere is like no other."""
    return 0.0 if np.ptp(one) == 0 or np.ptp(other) == 0 else float(spearmanr(one, other).statistic)


def edges(_model: nn.Module, x: Tensor, _lengths: Tensor | None) -> Floats:
    """No explanation at all: it does not look at the model."""
    picture = x[0, 0].double().numpy()
    return np.hypot(sobel(picture, 0), sobel(picture, 1))


SERIES_INPUT = a_study("gru", SERIES).input
METHODS: dict[str, tuple[Explain, Callable[[], Planted]]] = {
    "Grad-CAM": (lambda m, x, _: grad_cam(m, x, 1), lambda: images()[0]),
    "integrated gradients of images": (
        lambda m, x, _: neighbourhoods(explain_image(m, x, 1).values), lambda: images()[0]
    ),
    "integrated gradients of series": (lambda m, x, n: explain_series(m, x, n, SERIES_INPUT, 1).values, series),
    "integrated gradients of texts": (lambda m, x, n: explain_text(m, x, n, 1).values, texts),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_does_not_survive_random_weights(method: str) -> None:
    explain, planted = METHODS[method]
    stages = similarities(explain, planted())
    assert passes(stages), stages


def test_an_explanation_that_ignores_the_model_fails_the_check() -> None:
    stages = similarities(edges, images()[0])
    assert stages == pytest.approx([1.0] * len(stages))
    assert not passes(stages)
