"""The ledger as a picture: spent and left per study and in life, and spending over time."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from client.balance import Account, Balance

_SPENT, _LEFT, _OVER, _INK = "#1f5f8b", "#d5e3ec", "#b3261e", "#333333"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": "#999999",
    "axes.spines.top": False, "axes.spines.right": False, "xtick.color": _INK, "ytick.color": _INK,
}  # fmt: skip


def draw(out: Path, hospital: str, found: Balance, moments: Sequence[tuple[str, float]]) -> None:
    """Write a .png or .svg. moments: (time, epsilon spent in life), in order."""
    with mpl.rc_context():
        mpl.rcdefaults()  # the reader's own matplotlibrc must not change it
        mpl.rcParams.update(_STYLE)
        bars = len(found.studies) + 1
        figure = Figure(figsize=(8.0, 3.2 + 0.32 * bars), layout="constrained")
        figure.suptitle(f"Privacy ledger of {hospital}", fontweight="bold")
        above, below = figure.subplots(2, 1, height_ratios=[0.5 + 0.32 * bars, 2.2])
        _bars(above, found)
        _time(below, moments, found.limit)
        figure.savefig(out, dpi=150)


def _bars(axes: Axes, found: Balance) -> None:
    rows: list[tuple[str, Account | Balance]] = [(_title(study), study) for study in found.studies]
    rows.append(("in life", found))
    room = 1.25 * max(max(row.limit if math.isfinite(row.limit) else 0.0, _finite(row)) for _, row in rows)
    for place, (_, row) in enumerate(rows):
        spent = _finite(row)
        axes.barh(place, spent, color=_OVER if row.spent > row.limit else _SPENT, height=0.62)
        axes.barh(place, row.left, left=spent, color=_LEFT, height=0.62)
        said = "no bound" if math.isinf(row.spent) else f"{row.spent:.2f}"
        axes.text(spent + row.left + 0.012 * room, place, f"{said} of {row.limit:g}, {row.left:.2f} left", va="center")
    axes.set(yticks=range(len(rows)), yticklabels=[title for title, _ in rows], xlabel="epsilon", xlim=(0.0, room))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_title("spent and left", loc="left", fontsize=9)


def _time(axes: Axes, moments: Sequence[tuple[str, float]], limit: float) -> None:
    times = [datetime.fromisoformat(time) for time, _ in moments]
    spent = [epsilon for _, epsilon in moments]
    finite = [value for value in spent if math.isfinite(value)]
    axes.step(times[: len(finite)], finite, where="post", color=_SPENT, marker="o" if len(finite) < 30 else "",  # type: ignore[arg-type]
              markersize=3)  # fmt: skip
    axes.axhline(limit, color=_OVER, linewidth=1.0, linestyle="--")
    axes.text(0.995, limit, f"limit in life {limit:g}", color=_OVER, va="bottom", ha="right",
              transform=axes.get_yaxis_transform())  # fmt: skip
    if len(finite) < len(spent):
        axes.axvline(times[len(finite)], color=_OVER, linewidth=1.0)  # type: ignore[arg-type]
        axes.set_xlabel("without bound since the red line: a study without privacy", color=_OVER)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set(ylabel="epsilon", ylim=(0.0, 1.15 * max([limit, *finite])))
    axes.set_title("spent in life, over time", loc="left", fontsize=9)


def _title(study: Account) -> str:
    return study.name or study.digest.hex()[:16]


def _finite(row: Account | Balance) -> float:
    return row.spent if math.isfinite(row.spent) else row.limit
