"""The result of a check."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["ok", "warn", "fail"]
Groups = Sequence[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    name: what it is about; verdict: `fail` where training or its measurement would go wrong, `warn` where a person has
    to look, `ok` otherwise; what: in plain words; fix: what to do, empty where nothing; numbers: the same for machines.
    groups: record numbers [k] of each group of records that it is about, for the hospital's own eyes.
    """

    name: str
    verdict: Verdict
    what: str
    fix: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    groups: Groups = field(default=(), repr=False)


def worst(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the worst first, else in their order."""
    order: dict[str, int] = {"fail": 0, "warn": 1, "ok": 2}
    return sorted(findings, key=lambda finding: order[finding.verdict])


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names separated by commas, cut with the number of those left out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def share(part: float, whole: float) -> str:
    """A share in per cent with two significant digits, so that neither none nor all is ever a rounded number."""
    if part in (0, whole):
        return f"{100 * part / max(whole, 1):.0f} %"
    value = min(100 * part / whole, 99.9)
    return f"{value:.2g} %" if value < 99 else f"{value:.1f} %"
