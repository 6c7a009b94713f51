"""What moved a model's answer for one record, by captum: integrated gradients for everything, Grad-CAM for images.

Integrated gradients (Sundararajan et al., ICML 2017) share the difference between a label's log-odds for the record and
for a baseline among the numbers of the input. The shares add up to that difference (completeness), which is checked.
The model is in evaluation mode, on the CPU, and nothing is drawn at random.

A baseline is what the record is compared with; another one gives another explanation. Each is public and constant:

- images: the middle of the public pixel range everywhere, as far from black as from white. With a black baseline, black
  pixels could never count (Sturmfels et al., Distill 2020).
- series: nothing measured at any time, statics in the middle of their public range.
- texts: the zero vector for every token, as in Sundararajan et al. Bucket 0, the padding, would not do: its vector is
  never trained.
- tables: numbers in the middle of their public range, all values of a category in equal parts. "Missing" would not do:
  where no hospital lacked a value, the weights of "missing" are still what chance made them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam
from torch import Tensor, nn

from fedmodels.errors import UsageError
from fedmodels.models.losses import log_odds
from fedmodels.study_input import Column, SeriesInput, TableInput

Floats = npt.NDArray[np.float64]
_POINTS, _PIECES = 16, 128
_NUMBERS_AT_ONCE = 1 << 21  # of input, 13 images of 224 x 224 x 3: bounds the memory
_UNKNOWN = 0.5


@dataclass(frozen=True, repr=False)
class Attribution:
    """Shares of `record - baseline`, the log-odds of one label, by part of the input.

    values: float64. steps: the number of points between baseline and record where gradients were taken.
    """

    values: Floats
    baseline: float
    record: float
    steps: int

    @property
    def gap(self) -> float:
        """What the shares leave over: the error of the numerical integration."""
        return self.record - self.baseline - float(self.values.sum())

    @property
    def complete(self) -> bool:
        """Whether the gap is at most 1 % of the difference, or 0.01 where that is more."""
        return abs(self.gap) <= _allowed(self.record - self.baseline)

    def fold(self, function: Callable[[Floats], Floats]) -> "Attribution":
        """The same with its shares added up into fewer."""
        return replace(self, values=function(self.values))


@dataclass(frozen=True, repr=False)
class _End:
    """A point of the path: its position between 0 (baseline) and 1 (record), itself, and its log-odds."""

    position: float
    point: Tensor
    value: float


@dataclass(frozen=True, repr=False, eq=False)
class _Piece:
    """A piece of the path with the shares along it; error: how far they are from adding up."""

    error: float
    start: _End
    stop: _End
    shares: Tensor


def _allowed(difference: float) -> float:
    return 0.01 * max(1.0, abs(difference))


def explain_image(model: nn.Module, x: Tensor, label: int) -> Attribution:
    """Shares [height, width] of one image's pixels, colours added up. x: [1, channels, height, width] in [-1, 1]."""
    return _integrate(lambda pixels, _: model(pixels), x, torch.zeros_like(x), label).fold(lambda v: v.sum(0))


def explain_series(model: nn.Module, x: Tensor, lengths: Tensor, input_: SeriesInput, label: int) -> Attribution:
    """Shares [variables + statics, steps] of one series. x: [1, steps, features].

    A variable's value, mask and time since its last measurement are added up, and so are a static's value and missing
    indicator, which the model reads again in every step.
    """
    variables, statics = len(input_.variables), len(input_.statics)
    nothing = torch.tensor([_UNKNOWN, 0.0, 1.0] * variables + [_UNKNOWN, 0.0] * statics).expand_as(x)

    def fold(values: Floats) -> Floats:
        measured = values[:, : 3 * variables].reshape(-1, variables, 3).sum(2)
        known = values[:, 3 * variables :].reshape(-1, statics, 2).sum(2)
        return np.concatenate([measured, known], axis=1).T

    return _integrate(model, x, nothing, label, lengths).fold(fold)


def explain_text(model: nn.Module, x: Tensor, lengths: Tensor, label: int) -> Attribution:
    """Shares [tokens] of one text's tokens, as many as there are. x: [1, max_tokens] int64.

    The path goes through the vectors of the tokens: `UsageError` unless the model has exactly one `nn.Embedding`.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if len(embeddings) != 1:
        raise UsageError(
            f"a text model with {len(embeddings)} embeddings cannot be explained",
            fix="explain a model that reads its tokens through one `nn.Embedding`",
        )

    def from_vectors(vectors: Tensor, lengths: Tensor | None) -> Tensor:
        handle = embeddings[0].register_forward_hook(lambda *_: vectors)
        try:
            logits: Tensor = model(x.expand(len(vectors), -1), lengths)
        finally:
            handle.remove()
        return logits

    vectors = embeddings[0](x).detach()
    shares = _integrate(from_vectors, vectors, torch.zeros_like(vectors), label, lengths)
    return shares.fold(lambda values: values.sum(1)[: int(lengths[0])])


def explain_table(model: nn.Module, x: Tensor, input_: TableInput, label: int) -> Attribution:
    """Shares [columns] of one row. x: [1, features]. A column's values and missing indicator are added up."""
    middle = torch.tensor([value for column in input_.columns for value in _middle(column)])[None]
    starts = np.cumsum([0, *(len(_middle(column)) for column in input_.columns[:-1])])
    shares = _integrate(lambda row, _: model(row), x, middle, label)
    return shares.fold(lambda values: np.add.reduceat(values, starts))


def grad_cam(model: nn.Module, x: Tensor, label: int) -> Floats:
    """[height, width] Grad-CAM (Selvaraju et al., ICCV 2017) of one image, at least 0, at most 1.

    Taken from the maps of the last convolution after its normalisation and ReLU: before a GroupNorm the gradients of a
    group sum to 0, because a constant added there is taken out again (with one channel per group nothing is left).
    """
    cam = LayerGradCam(_log_odds_of(lambda pixels, _: model(pixels)), _last_maps(model, x))
    coarse = cam.attribute(x, target=label, additional_forward_args=(None,), relu_attributions=True)
    fine = LayerAttribution.interpolate(coarse.detach(), tuple(x.shape[2:]), interpolate_mode="bilinear")
    values: Floats = fine[0, 0].double().numpy()
    return values / max(float(values.max()), np.finfo(np.float64).tiny)


def _integrate(
    forward: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    baseline: Tensor,
    label: int,
    lengths: Tensor | None = None,
) -> Attribution:
    """Shares of every number of x [1, ...] along the straight path.

    The path is cut in half where the shares of a piece add up worst to what happens along it, until they add up. A
    fixed grid would not do: a GroupNorm forgets the contrast of an image, so that between a grey baseline and the image
    nearly everything happens within the first thousandth of the path.
    """
    function = _log_odds_of(forward)
    method = IntegratedGradients(function)

    @torch.no_grad()
    def end(position: float) -> _End:
        point = baseline + position * (x - baseline)
        return _End(position, point, float(function(point, lengths)[0, label]))

    def piece(start: _End, stop: _End) -> _Piece:
        shares = method.attribute(
            stop.point.clone().requires_grad_(),
            baselines=start.point,
            target=label,
            additional_forward_args=(lengths,),
            n_steps=_POINTS,
            internal_batch_size=max(1, _NUMBERS_AT_ONCE // x.numel()),
        )[0].detach()
        return _Piece(abs(stop.value - start.value - float(shares.double().sum())), start, stop, shares.double())

    first, last = end(0.0), end(1.0)
    pieces = [piece(first, last)]
    while sum(p.error for p in pieces) > _allowed(last.value - first.value) and len(pieces) < _PIECES:
        worst = max(pieces, key=lambda p: p.error)
        pieces.remove(worst)
        middle = end((worst.start.position + worst.stop.position) / 2)
        pieces += [piece(worst.start, middle), piece(middle, worst.stop)]
    values = torch.stack([p.shares for p in pieces]).sum(0)
    return Attribution(values.numpy(), first.value, last.value, len(pieces) * _POINTS)


def _log_odds_of(forward: Callable[[Tensor, Tensor | None], Tensor]) -> Callable[[Tensor, Tensor | None], Tensor]:
    return lambda x, lengths: log_odds(forward(x, lengths))


def _middle(column: Column) -> list[float]:
    if column.kind == "number":
        return [_UNKNOWN, 0.0]
    return [*[1.0 / len(column.values)] * len(column.values), 0.0]


def _last_maps(model: nn.Module, x: Tensor) -> nn.Module:
    """The last module with an image of the last convolution's size as its output."""
    seen: list[tuple[nn.Module, torch.Size]] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(lambda m, _, out: seen.append((m, out.shape))) for leaf in leaves]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    convolutions = [shape for module, shape in seen if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise UsageError("Grad-CAM needs a model with a convolution", fix="explain a `cnn`")
    return [module for module, shape in seen if shape[2:] == convolutions[-1][2:] and len(shape) == 4][-1]
