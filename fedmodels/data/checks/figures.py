"""Small bar charts as inline SVG, in the colours of the page that they stand on."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from fedmodels.data.checks.marginals import BINS, Marginal

_WIDTH, _HEIGHT = 180.0, 34.0


def histogram(counts: Sequence[int], description: str, *, beyond: bool = False) -> Markup:
    """An `<svg>` of bars; beyond: the first and the last bar stand for values beyond the range."""
    highest, step = max(*counts, 1), _WIDTH / len(counts)
    bars = []
    for number, count in enumerate(counts):
        if not count:
            continue
        tall = max(1.0, _HEIGHT * count / highest)
        kind = "beyond" if beyond and number in (0, len(counts) - 1) else "within"
        place = f'x="{number * step + 0.5:.1f}" y="{_HEIGHT - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}"'
        bars.append(f'<rect class="{kind}" {place}/>')
    return Markup(  # noqa: S704 - numbers, and an escaped description
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{escape(description)}">'
        f'<line x1="0" x2="{_WIDTH:.0f}" y1="{_HEIGHT:.0f}" y2="{_HEIGHT:.0f}"/>{"".join(bars)}</svg>'
    )


def marginal_figure(marginal: Marginal) -> Markup:
    """How the values of one input lie over the study's public range, or over its public categories."""
    if marginal.quantiles is None:
        return histogram(marginal.bins or (0,), f"counts of the categories: {', '.join(map(str, marginal.bins))}")
    five, half, most = marginal.quantiles
    said = f"5 % of the values are below {five:.0%} of the range, half below {half:.0%}, 95 % below {most:.0%}"
    return histogram(marginal.bins, said, beyond=True)


def by_class(
    values: npt.NDArray[np.float32], y: npt.NDArray[np.int64], labels: Sequence[str]
) -> list[dict[str, object]]:
    """One histogram of a property per label, all over the same range, with the ends of that range."""
    low, high = float(values.min()), float(values.max())
    rows: list[dict[str, object]] = []
    for number, name in enumerate(labels):
        of_it = values[y == number]
        counts = np.histogram(of_it, bins=BINS, range=(low, high if high > low else low + 1))[0].tolist()
        middle = f"median {np.median(of_it):.4g}" if len(of_it) else "none"
        rows.append({"label": name, "figure": histogram(counts, f"{name}: {middle}"), "middle": middle})
    return rows
