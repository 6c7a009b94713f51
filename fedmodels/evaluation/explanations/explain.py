"""One record's explanation: the picture, and what is said of it in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from torch import Tensor, nn

from fedmodels.data.text import token_spans
from fedmodels.errors import UsageError
from fedmodels.evaluation.calibration import calibrated
from fedmodels.evaluation.explanations import attribution, figures
from fedmodels.evaluation.explanations.attribution import Attribution, Floats
from fedmodels.evaluation.explanations.examples import Examples
from fedmodels.evaluation.explanations.words import marked_words, merged, not_read
from fedmodels.evaluation.scores import predicted
from fedmodels.models.artifact import Card
from fedmodels.models.batches import predict, to_tensors
from fedmodels.models.losses import AtTemperature
from fedmodels.study_input import Column, ImageInput, SeriesInput, TableInput, TextInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 5
_THIRDS = (("upper left", "upper middle", "upper right"), ("left", "middle", "right"),
           ("lower left", "lower middle", "lower right"))  # fmt: skip


@dataclass(frozen=True, repr=False)
class _Parts:
    """What the kind of input decides. compared: the baseline in words. picture: makes a figure, or is markup."""

    shares: Attribution
    compared: str
    alt: str
    picture: "Callable[[], Figure] | Markup"


@dataclass(frozen=True, repr=False)
class Explanation:
    """title: what the model says of the record. sums: how the shares add up, a sentence each. parts: the picture."""

    title: str
    sums: tuple[str, ...]
    parts: _Parts


def explain(model: nn.Module, card: Card, example: Examples, label: str = "") -> Explanation:
    """Explain what the model says of one record: the predicted label, or another one of the study.

    `UsageError` for a label that the study does not have.
    """
    labels = card.study.labels
    if label and label not in labels:
        raise UsageError(f"there is no label `{label}`", where="--label", fix=f"use one of {', '.join(labels)}")
    model.eval()
    chances = calibrated(predict(model, example.data, card.input), card.temperature)
    guess = int(predicted(chances, card.threshold)[0])
    chosen = labels.index(label) if label else guess
    title = f"Predicted: {labels[guess]} (probability {_chance(chances[0, guess])})"
    if chosen != guess:
        title += f". Explained: {labels[chosen]} (probability {_chance(chances[0, chosen])})"
    x, lengths = to_tensors(example.data, card.input)
    parts = _parts(AtTemperature(model, card.temperature), card, example, (x, lengths), chosen)
    return Explanation(title, _sums(parts, labels[chosen]), parts)


def _chance(probability: float) -> str:
    """Never 0 or 1: no model is certain."""
    return "above 0.99" if probability > 0.99 else "below 0.01" if probability < 0.01 else f"{probability:.2f}"


def _sums(parts: _Parts, label: str) -> tuple[str, ...]:
    shares = parts.shares
    sentence = (
        f"Compared with {parts.compared}, the log-odds of {label} are {shares.record:.2f} instead of "
        f"{shares.baseline:.2f}; the shares add up to {_signed(shares.values.sum())} of "
        f"{_signed(shares.record - shares.baseline)}."
    )
    if shares.complete:
        return (sentence,)
    return sentence, "That is more than 1 % off: the shares are not to be relied on."


def _parts(
    model: nn.Module, card: Card, example: Examples, tensors: tuple[Tensor, Tensor | None], label: int
) -> _Parts:
    (x, lengths), name = tensors, card.study.labels[label]
    match card.input:
        case ImageInput() as input_:
            return _image(model, x, _pixels(example, input_), label, name)
        case SeriesInput() as input_ if lengths is not None:
            return _series(attribution.explain_series(model, x, lengths, input_, label), x, input_, name)
        case TextInput() as input_ if lengths is not None:
            text = example.texts[0]
            return _text(attribution.explain_text(model, x, lengths, label), text, token_spans(text, input_), name)
        case TableInput() as input_:
            return _table(attribution.explain_table(model, x, input_, label), x, input_, name)
    raise UsageError("records of this kind cannot be explained", fix="install the version that trained the model")


def _pixels(example: Examples, input_: ImageInput) -> Floats:
    """[height, width], with colours [height, width, 3], within [0, 1]."""
    pixels = np.asarray(example.data.x[0], dtype=np.float64)
    scaled: Floats = ((pixels - input_.low) / (input_.high - input_.low)).clip(0.0, 1.0).transpose(1, 2, 0)
    return scaled[..., 0] if input_.channels == 1 else scaled


def _image(model: nn.Module, x: Tensor, pixels: Floats, label: int, name: str) -> _Parts:
    shares, cam = attribution.explain_image(model, x, label), attribution.grad_cam(model, x, label)
    smooth = figures.neighbourhoods(shares.values)
    alt = (
        f"The image beside two maps of it. Features for {name} (Grad-CAM) are strongest at the {_place(cam)}; by "
        f"integrated gradients, most speaks for it (red) at the {_place(smooth)}, and most against it (blue) at the "
        f"{_place(-smooth)}."
    )
    return _Parts(
        shares, "a uniformly grey image", alt, partial(figures.image_figure, pixels, cam, shares.values, name)
    )


def _place(values: Floats) -> str:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return _THIRDS[3 * int(row) // values.shape[0]][3 * int(column) // values.shape[1]]


def _series(shares: Attribution, x: Tensor, input_: SeriesInput, label: str) -> _Parts:
    count = len(input_.variables)
    names = [variable.name for variable in (*input_.variables, *input_.statics)]
    totals = shares.values.sum(1)
    measured = x[0, :, 1 : 3 * count : 3].numpy().T > 0
    grid = figures.Grid(shares.values[:count], measured, input_.step_minutes)
    statics = dict(zip(names[count:], totals[count:].tolist(), strict=True))
    alt = (
        f"What speaks for {label} (red) and against it (blue), by variable and time. In all: {_largest(names, totals)}."
    )
    picture = partial(figures.series_figure, names[:count], grid, statics, label)
    return _Parts(shares, "a stay of which nothing was measured", alt, picture)


def _text(shares: Attribution, text: str, spans: list[tuple[int, int]], label: str) -> _Parts:
    tokens = merged(spans, shares.values)
    words = [text[begin:end] for (begin, end), _ in tokens]
    alt = (
        f"The text, its words marked for {label} (red, solid lines) and against it (blue, dotted). Most weigh: "
        f"{_largest(words, [share for _, share in tokens])}."
    )
    if not_read(text, spans):
        alt += " The end of the text, in grey, is beyond what the model reads."
    return _Parts(shares, "words without a meaning to the model", alt, marked_words(text, spans, shares.values))


def _table(shares: Attribution, x: Tensor, input_: TableInput, label: str) -> _Parts:
    row, names = x[0].tolist(), []
    for column in input_.columns:
        width = 2 if column.kind == "number" else len(column.values) + 1
        names.append(f"{column.name} = {_reading(column, row[:width])}")
        row = row[width:]
    alt = f"What speaks for {label} (red) and against it (blue). Most weigh: {_largest(names, shares.values)}."
    return _Parts(shares, "a record in the middle of every range", alt,
                  partial(figures.table_figure, names, shares.values, label))  # fmt: skip


def _reading(column: Column, features: list[float]) -> str:
    """What the record says in a column, as the model reads it."""
    if features[-1]:
        return "not known"
    if column.kind == "number":
        return f"{column.low + features[0] * (column.high - column.low):.5g}"
    return column.values[features.index(1.0)]


def _largest(names: Sequence[str], shares: Sequence[float] | Floats) -> str:
    order = np.argsort(-np.abs(np.asarray(shares)), kind="stable")[:_NAMED]
    return ", ".join(f"{names[i]} ({_signed(shares[i])})" for i in order.tolist())


def _signed(share: float) -> str:
    return f"{round(float(share), 2) + 0.0:+.2f}"  # no -0.00
