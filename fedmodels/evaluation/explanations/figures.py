"""Explanations as figures. Red speaks for the explained label, blue against it, and darker means more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from fedmodels.evaluation.explanations.attribution import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = "RdBu_r"
_MOST_ROWS = 25
_SMOOTHING = 1 / 20
_HOURS_FROM = 180.0  # minutes


@dataclass(frozen=True, repr=False)
class Grid:
    """Shares [rows, steps] and where there was a measurement; minutes of one step."""

    shares: Floats
    measured: npt.NDArray[np.bool_]
    step_minutes: float


def image_figure(picture: Floats, cam: Floats, shares: Floats, label: str) -> "Figure":
    """The image [height, width] or [height, width, 3] within [0, 1], Grad-CAM over it, and the shares of its pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    plain, overlaid, signed = figure.subplots(1, 3)
    look: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0, "interpolation": "nearest"}
    for axes, title in ((plain, "Image"), (overlaid, "Grad-CAM"), (signed, "Integrated gradients")):
        axes.set_title(title)
        axes.set_axis_off()
    plain.imshow(picture, **look)
    overlaid.imshow(picture, **look)
    heat = overlaid.imshow(cam, cmap="inferno", alpha=0.5, vmin=0.0, vmax=1.0)
    _bar(figure, heat, overlaid, f"where features for {label} are")
    smooth = neighbourhoods(shares)
    limit = _limit(smooth)
    parts = signed.imshow(smooth, cmap=_COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
    _bar(figure, parts, signed, f"log-odds of {label}, per pixel")
    return figure


def neighbourhoods(shares: Floats) -> Floats:
    """The shares [height, width] spread over their neighbours, by a twentieth of the shorter side; the sum stays.

    Of single pixels, neighbours nearly cancel each other: a convolution reads edges.
    """
    smooth: Floats = gaussian_filter(shares, min(shares.shape) * _SMOOTHING, mode="reflect")
    return smooth


def series_figure(names: Sequence[str], grid: Grid, statics: dict[str, float], label: str) -> "Figure":
    """A row per variable over time beside the sum of the row, the largest first; statics have the sum alone."""
    from matplotlib.figure import Figure

    rows = [(name, float(grid.shares[i].sum()), i) for i, name in enumerate(names)]
    rows += [(name, share, -1) for name, share in statics.items()]
    shown = ranked(rows)
    hours = grid.shares.shape[1] * grid.step_minutes >= _HOURS_FROM
    end = grid.shares.shape[1] * grid.step_minutes / (60.0 if hours else 1.0)
    heat = np.array([grid.shares[i] if i >= 0 else np.full(grid.shares.shape[1], np.nan) for _, _, i in shown])
    limit = _limit(heat)
    figure = Figure(figsize=(9.0, 1.8 + 0.24 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    bounds = (0.0, end, len(shown) - 0.5, -0.5)
    parts = left.imshow(
        heat, cmap=_COLOURS, vmin=-limit, vmax=limit, aspect="auto", extent=bounds, interpolation="nearest"
    )
    ys, xs = np.nonzero([grid.measured[i] if i >= 0 else np.zeros_like(grid.measured[0]) for _, _, i in shown])
    left.scatter((xs + 0.5) * end / grid.shares.shape[1], ys, s=2, color="black", linewidths=0)
    left.set(xlabel="hours" if hours else "minutes", title="over time (dots: measured)")
    left.grid(visible=False)
    left.set_yticks(range(len(shown)), [name for name, _, _ in shown])
    _bars(right, [share for _, share, _ in shown])
    right.set(title="sum")
    right.tick_params(labelleft=False)
    _bar(figure, parts, left, f"log-odds of {label}, per step")
    return figure


def table_figure(names: Sequence[str], shares: Floats, label: str) -> "Figure":
    """A bar per column, the largest first."""
    from matplotlib.figure import Figure

    shown = ranked([(name, float(share), i) for i, (name, share) in enumerate(zip(names, shares, strict=True))])
    figure = Figure(figsize=(7.0, 1.0 + 0.3 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(shown)), [name for name, _, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    _bars(axes, [share for _, share, _ in shown])
    axes.set(xlabel=f"log-odds of {label}")
    return figure


def ranked(rows: Sequence[tuple[str, float, int]]) -> list[tuple[str, float, int]]:
    """(name, share, position) by size; the smallest beyond what a picture has room for become one row, position -1."""
    ordered = sorted(rows, key=lambda row: -abs(row[1]))
    if len(ordered) <= _MOST_ROWS:
        return ordered
    kept, rest = ordered[: _MOST_ROWS - 1], ordered[_MOST_ROWS - 1 :]
    return [*kept, (f"{len(rest)} others", sum(share for _, share, _ in rest), -1)]


def _bars(axes: "Axes", shares: Sequence[float]) -> None:
    from matplotlib import colormaps

    high, low = (colormaps[_COLOURS](position) for position in (0.88, 0.12))
    axes.barh(range(len(shares)), shares, color=[high if share > 0 else low for share in shares], height=0.7)
    axes.axvline(0.0, color="gray", linewidth=0.8)
    axes.grid(visible=False)


def _bar(figure: "Figure", mapped: Any, axes: "Axes", label: str) -> None:  # noqa: ANN401 - matplotlib's mappable
    bar = figure.colorbar(
        mapped, ax=axes, location="bottom", shrink=0.9, aspect=40 if axes.get_yticks().size > 9 else 20
    )
    bar.set_label(label)
    bar.outline.set_visible(False)


def _limit(shares: Floats) -> float:
    """The end of a scale with zero in its middle."""
    finite = np.abs(shares[np.isfinite(shares)])
    return float(finite.max(initial=0.0)) or 1.0
