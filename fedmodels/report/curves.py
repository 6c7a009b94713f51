"""What evaluation counts look like: ROC and precision-recall curves, the calibration plot, the confusion matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from fedmodels.evaluation import scores, uncertainty
from fedmodels.evaluation.calibration import calibrated_score
from fedmodels.evaluation.counts import Layout
from fedmodels.evaluation.scores import Floats
from fedmodels.report.charts import ACCENT, INK, LINE, inline_svg, page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (3.5, 3.3)
_GRID = np.linspace(0.0, 1.0, 101)
_TOLD = (0.95, 0.9, 0.8)
_FEWEST, _VISIBLE = 5.0, 2.0  # records, and deviations of the noise in them, below which a group is not shown


@dataclass(frozen=True)
class Group:
    """One calibration group: the mean predicted probability, the share that had the label, and its 95% interval."""

    predicted: float
    observed: float
    interval: uncertainty.Interval
    records: float


def calibration_groups(heads: Floats, layout: Layout, temperature: float, noise: float) -> list[Group]:
    """Of histograms [heads, 2, bins] together, those that are more than chance and noise (variance of a count)."""
    scaled = calibrated_score(layout.middles, temperature)
    place = np.minimum((scaled * scores.CALIBRATION_BINS).astype(int), scores.CALIBRATION_BINS - 1)
    groups = []
    for number in range(scores.CALIBRATION_BINS):
        negatives, positives = heads[:, :, place == number].sum((0, 2))
        records, drawn = negatives + positives, noise * len(heads) * int((place == number).sum())
        if records < max(_FEWEST, _VISIBLE * np.sqrt(2 * drawn)):
            continue
        share = float(np.clip(positives / records, 0.0, 1.0))
        # Positives are part of all records: the noise of both is in the share.
        error = float(np.sqrt(drawn * ((1 - share) ** 2 + share**2))) / records
        spread = uncertainty.Spread(share, float(np.sqrt(share * (1 - share) / records)), error, float(records))
        weights = np.maximum(heads[:, :, place == number].sum((0, 1)), 0.0)
        mean = float(np.average(scaled[place == number], weights=weights if weights.sum() else None))
        groups.append(Group(mean, share, uncertainty.interval(share, spread), float(records)))
    return groups


def roc_chart(heads: Floats, title: str, threshold: tuple[float, float] | None) -> Markup:
    """Of smoothed histograms [heads, 2, bins]; several heads: each a thin line and their mean. threshold: (1 -
    specificity, sensitivity) of the operating point."""
    curves = [_roc(head) for head in heads]
    mean = np.mean([np.interp(_GRID, false, true) for false, true in curves], axis=0)
    told = ", ".join(f"{float(np.interp(1 - s, _GRID, mean)):.2f} at specificity {s}" for s in _TOLD)
    about = "Mean over the labels, each against the rest. " if len(heads) > 1 else ""
    description = f"{about}Sensitivity {told}."
    if threshold:
        description += f" The threshold has sensitivity {threshold[1]:.2f} and specificity {1 - threshold[0]:.2f}."

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        _lines(axes, curves, mean)
        if threshold:
            axes.plot(*threshold, "o", color=INK, markersize=6, clip_on=False)
            axes.annotate("threshold", threshold, (8, -12), textcoords="offset points")
        axes.set(xlabel="1 - specificity", ylabel="sensitivity")

    return _chart("roc", title, description, draw)


def precision_recall_chart(heads: Floats, title: str) -> Markup:
    """As `roc_chart`."""
    curves = [_precision_recall(head) for head in heads]
    mean = np.mean([np.interp(_GRID, found, right) for found, right in curves], axis=0)
    chance = float(np.mean([head[1].sum() / max(head.sum(), 1.0) for head in heads]))
    told = ", ".join(f"{float(np.interp(s, _GRID, mean)):.2f} at sensitivity {s}" for s in (0.5, 0.8, 0.9))
    description = f"Precision {told}. Guessing would have {chance:.2f} everywhere."

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [chance, chance], color=LINE, linewidth=1)
        _lines(axes, curves, mean)
        axes.set(xlabel="sensitivity (recall)", ylabel="precision")

    return _chart("precision", title, description, draw)


def calibration_chart(before: Sequence[Group], after: Sequence[Group], title: str) -> Markup:
    """after: empty where the temperature is 1."""
    final = after or before
    worst = max(final, key=lambda group: abs(group.observed - group.predicted))
    description = (
        f"{len(final)} groups of predictions. Farthest from the diagonal: where the model says "
        f"{worst.predicted:.2f} on average, {worst.observed:.2f} had the label."
    )

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        if after:
            points = [(group.predicted, group.observed) for group in before]
            axes.plot(*zip(*points, strict=True), "--s", color=INK, markersize=4, markerfacecolor="none", linewidth=1,
                      label="as trained", clip_on=False)  # fmt: skip
        x, y = [group.predicted for group in final], [group.observed for group in final]
        ends = [[group.observed - group.interval[0] for group in final],
                [group.interval[1] - group.observed for group in final]]  # fmt: skip
        axes.errorbar(x, y, np.maximum(ends, 0.0), fmt="-o", color=ACCENT, markersize=5, elinewidth=1, clip_on=False,
                      label="after temperature" if after else "the model")  # fmt: skip
        if after:
            axes.legend(frameon=False, loc="upper left")
        axes.set(xlabel="predicted probability", ylabel="share that had the label")

    return _chart("calibration", title, description, draw)


def _roc(head: Floats) -> tuple[Floats, Floats]:
    """(false, true) positive rates, ascending, from 0 to 1."""
    totals = np.maximum(head.sum(1, keepdims=True), 1e-300)
    rates = np.cumsum(head[:, ::-1], axis=1) / totals
    return np.append(0.0, rates[0]), np.append(0.0, rates[1])


def _precision_recall(head: Floats) -> tuple[Floats, Floats]:
    """(recall, precision), recall ascending."""
    found, wrong = np.cumsum(head[1, ::-1]), np.cumsum(head[0, ::-1])
    seen = found + wrong >= 1
    recall, precision = found[seen] / max(float(found[-1]), 1.0), found[seen] / (found + wrong)[seen]
    return np.append(0.0, recall), np.append(precision[:1], precision)


def _lines(axes: "Axes", curves: Sequence[tuple[Floats, Floats]], mean: Floats) -> None:
    if len(curves) == 1:
        axes.plot(*curves[0], color=ACCENT)
        return
    for curve in curves:
        axes.plot(*curve, color=INK, linewidth=0.6, alpha=0.35)
    axes.plot(_GRID, mean, color=ACCENT, linewidth=2)


def _chart(key: str, title: str, description: str, draw: "Callable[[Axes], None]") -> Markup:
    with page_style(key):
        figure = _square()
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.tick_params(length=0)
        axes.grid(visible=True, axis="both", linewidth=0.5)
        return inline_svg(figure, key, title, description)


def _square() -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=_INCHES, layout="constrained")
