"""The two pictures of an audit: reconstructed patients in a grid, and ROC curves at low false-positive rates."""

import io
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedmodels.audit.membership import Roc
from simulations.auditing.image_views import Gallery, Pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCH_PER_PICTURE = 1.0
_LABEL_INCHES = 2.6
_LOWEST_RATE = 1e-3


def grid(gallery: Gallery) -> bytes:
    """A PNG: the patients in the first row, what one can guess of them in the second, then a row for each view."""
    rows: list[tuple[str, Pictures]] = [("patients", gallery.originals), ("guess: mean of the class", gallery.baseline)]
    rows += [(f"{view.name}\n{view.psnr:.1f} dB", view.pictures) for view in gallery.views]
    columns = len(gallery.originals)
    figure = _figure(_LABEL_INCHES + columns * _INCH_PER_PICTURE, len(rows) * _INCH_PER_PICTURE)
    widths = [_LABEL_INCHES, *[_INCH_PER_PICTURE] * columns]
    panels = figure.subplots(len(rows), columns + 1, squeeze=False, gridspec_kw={"width_ratios": widths})
    for line, (name, pictures) in zip(panels, rows, strict=True):
        for axes in line:
            axes.axis("off")
        label = "\n".join(textwrap.fill(part, 34) for part in name.split("\n"))
        line[0].text(0.0, 0.5, label, va="center", fontsize=8, transform=line[0].transAxes)
        for axes, picture in zip(line[1:], pictures, strict=False):
            _draw(axes, picture)
    return _png(figure)


def roc_curves(curves: Mapping[str, Roc]) -> bytes:
    """A PNG of ROC curves on two logarithmic axes, from a rate of 0.001, with the line of scores that say nothing."""
    figure = _figure(4.6, 4.2)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.step(curve.false, curve.true, where="post", label=f"{name}, area {curve.area:.3f}")
    axes.plot([_LOWEST_RATE, 1.0], [_LOWEST_RATE, 1.0], color="0.6", linestyle="--", label="says nothing")
    axes.set(xscale="log", yscale="log", xlim=(_LOWEST_RATE, 1.0), ylim=(_LOWEST_RATE, 1.0))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(fontsize=8, loc="lower right")
    return _png(figure)


def _draw(axes: "Axes", picture: Pictures) -> None:
    colours = np.moveaxis(picture, 0, -1)
    axes.imshow(colours[..., 0] if colours.shape[-1] == 1 else colours, cmap="gray", vmin=0.0, vmax=1.0)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
