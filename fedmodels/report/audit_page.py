"""`audit.html`: one self-contained page about an audit, for a reader without a background in differential privacy.

As `report.html`: no network, no script. Pictures of an audit are patients' or are made from them: where there are any,
they are part of the page, which is therefore readable by its owner alone.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.report.audit_record import Audit, File, Folder, read_folder
from fedmodels.report.charts import bounds_chart
from fedmodels.report.pages import render_page
from fedmodels.report.protection import PRIORS, contradictions, observers, posterior, rounded_up

PAGE = "audit.html"
_PICTURES = {"grid": ("view", "grid.png"), "roc": ("membership", "roc.png")}


@dataclass(frozen=True)
class Written:
    """path: of the page; found: what it tells of; wrong: what contradicts the promise."""

    path: Path
    found: Folder
    wrong: list[str]


def write_audit(folder: Path) -> Written:
    """Write `audit.html` into a folder of results, over an older one; readable by this user alone.

    `UsageError` where there are no results, or two of a kind; `FileError` where one is malformed.
    """
    found = read_folder(folder)
    path = folder / PAGE
    try:
        write_synced(path, render(found).encode(), mode=0o600)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path), fix="check the folder") from None
    return Written(path, found, contradictions(found))


def render(found: Folder) -> str:
    """The page as HTML. The same results give the same page."""
    values = {
        "found": found,
        "audit": found.audit and found.audit.content,
        "colluders": found.colluders and found.colluders.content,
        "tested": found.self_test and found.self_test.content,
        "view": found.view and found.view.content,
        "membership": found.membership and found.membership.content,
        "transcripts": [file.content for file in found.transcripts],
        "observers": observers(found),
        "contradictions": contradictions(found),
        "priors": [(name, posterior(prior, found.audit.content.claimed)) for prior, name in PRIORS]
        if found.audit
        else [],
        "chart": _chart(found.audit.content) if found.audit else None,
        "pictures": {name: _picture(getattr(found, of), file) for name, (of, file) in _PICTURES.items()},
    }
    filters: dict[str, Callable[..., str]] = {
        "up": rounded_up,
        "percent": _percent,
        "figure": _figure,
    }
    return render_page("audit.html", values, filters)


def _chart(audit: Audit) -> Markup:
    names = [bound.name for bound in audit.points[-1].bounds]
    bounds = {name: [point.bounds[at].epsilon for point in audit.points] for at, name in enumerate(names)}
    steps, claimed = [point.steps for point in audit.points], [point.claimed for point in audit.points]
    return bounds_chart("bounds-chart", "Epsilon: claimed, and shown by attacks", steps, claimed, bounds)


def _picture(file: File[Any] | None, name: str) -> str:
    """A PNG that lies beside a result, as a data URI; empty where there is none."""
    path = file.folder / name if file else None
    if path is None or not path.is_file():
        return ""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _percent(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1%}"


def _figure(value: float | None, digits: int) -> str:
    return "exact" if value is None else f"{value:.{digits}f}"
