"""The picture of an audit: lower bounds and the ledgers' epsilon against steps."""

from collections.abc import Sequence
from pathlib import Path

from fedmodels.audit.summary import Point


def draw(points: Sequence[Point], path: Path, title: str) -> None:
    """A line for each bound and one for what the ledgers charge; the format follows the name, .png or .svg."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    steps = [point.steps for point in points]
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(
            steps, [point.claimed for point in points], color="black", linewidth=2, label="claimed by the ledgers"
        )
        for number, bound in reversed(list(enumerate(points[-1].bounds))):
            axes.plot(
                steps, [point.bounds[number].epsilon for point in points], marker="o", markersize=3,
                label=f"at least: {bound.name}",
            )  # fmt: skip
        axes.set(xlabel="steps", ylabel="epsilon", title=title)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=160)
