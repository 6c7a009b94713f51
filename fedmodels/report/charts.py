"""Line charts as inline SVG for an HTML page: text stays text, and colours come from the page's own style."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins, because matplotlib takes colours only: what they become follows the reader's light or dark scheme.
_COLOURS = {"#010203": "currentColor", "#040506": "var(--accent)", "#070809": "var(--line)"}
INK, ACCENT, LINE = _COLOURS
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "none"),
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
}
_INCHES = (4.2, 2.3)
_TALL_INCHES = (4.2, 3.2)  # with room for a legend above the curves
_MARKED = 30  # beyond this many points their marks would run into each other


def line_chart(key: str, title: str, values: Sequence[float]) -> Markup:
    """An `<svg>` of `values` over the rounds 1, 2, ..., from 0 upwards; it names itself and its range to a reader.

    key: prefix of every id in the SVG, so that charts with different keys can be on one page.
    """
    with page_style(key):
        return inline_svg(_draw(values), key, title, _describe(values))


def bounds_chart(
    key: str, title: str, steps: Sequence[int], claimed: Sequence[float], bounds: Mapping[str, Sequence[float]]
) -> Markup:
    """An `<svg>` of lower bounds on epsilon below the epsilon that is claimed, over steps; the last bound stands out.

    key: as in `line_chart`; bounds: by name, a value for each of `steps`.
    """
    last = ", ".join(f"{name} {values[-1]:.3g}" for name, values in bounds.items())
    said = f"After {steps[-1]} steps {claimed[-1]:.3g} is claimed; lower bounds: {last}."
    with page_style(key):
        return inline_svg(_draw_bounds(steps, claimed, bounds), key, title, said)


@contextmanager
def page_style(key: str) -> Iterator[None]:
    """Figures made within have a page's colours, and the same bytes wherever they are made."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # the reader's own matplotlibrc must not change a report
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": key})
        yield


def inline_svg(figure: "Figure", key: str, title: str, description: str) -> Markup:
    """The `<svg>` of a figure made within `page_style(key)`, called from within it too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib's own output
    for parent in root.iter():
        for style in [child for child in parent if child.tag.endswith("}style")]:
            parent.remove(style)  # it would apply to the whole page
    for element in root.iter():
        _localise(element, key)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    for position, (tag, text) in enumerate({"title": title, "desc": description}.items()):
        child = ElementTree.Element(tag, {"id": f"{key}-{tag}"})
        child.text = text
        root.insert(position, child)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, so escaped


def _draw(values: Sequence[float]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot()
    marker = "o" if len(values) <= _MARKED else ""
    axes.plot(range(1, len(values) + 1), values, color=ACCENT, marker=marker, markersize=3, clip_on=False)
    axes.set(xlabel="round", xlim=(0.9, len(values) + 0.1), ylim=(0.0, 1.08 * max(values) or 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.tick_params(length=0)
    return figure


def _draw_bounds(steps: Sequence[int], claimed: Sequence[float], bounds: Mapping[str, Sequence[float]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=_TALL_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, claimed, color=INK, linewidth=2, label="claimed")
    *others, best = bounds.items()
    axes.plot(steps, best[1], color=ACCENT, marker="o", markersize=3, label=f"at least: {best[0]}")
    for (name, values), dashes in zip(reversed(others), ("--", "-.", ":"), strict=False):
        axes.plot(steps, values, color=INK, linewidth=1, linestyle=dashes, label=f"at least: {name}")
    highest = max(*claimed, *(value for values in bounds.values() for value in values))
    axes.set(xlabel="steps", ylabel="epsilon", xlim=(0, 1.02 * steps[-1]), ylim=(0.0, 1.08 * highest))
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
    axes.tick_params(length=0)
    return figure


def _localise(element: ElementTree.Element, key: str) -> None:
    """Fit one element into an HTML page: no namespaces, ids that are its own, colours of the page."""
    element.tag = element.tag.rpartition("}")[2]
    for name, value in list(element.attrib.items()):
        plain = name.rpartition("}")[2]
        if plain == "id":
            value = f"{key}-{value}"
        elif plain == "href":
            value = value.replace("#", f"#{key}-", 1)
        value = value.replace("url(#", f"url(#{key}-")
        for stand_in, colour in _COLOURS.items():
            value = value.replace(stand_in, colour)
        del element.attrib[name]
        element.attrib[plain] = re.sub(r"'DejaVu Sans'[^;]*sans-serif", "sans-serif", value)


def _describe(values: Sequence[float]) -> str:
    return (
        f"{values[0]:.3g} in round 1 and {values[-1]:.3g} in round {len(values)}; "
        f"lowest {min(values):.3g}, highest {max(values):.3g}."
    )
