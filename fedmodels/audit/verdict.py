"""One sentence: is something broken, is all consistent, or is the audit too weak to say?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedmodels.audit.bounds import Bound
from fedmodels.audit.checks import Finding

_TELLING = 0.5  # part of the claimed epsilon that the best bound has to reach

Conclusion = Literal["broken", "consistent", "too weak"]


@dataclass(frozen=True)
class Verdict:
    """said: one sentence for a reader who sees nothing else."""

    conclusion: Conclusion
    said: str


def verdict(bounds: Sequence[Bound], findings: Sequence[Finding], claimed: float, delta: float) -> Verdict:
    """What bounds and checks say of the epsilon that the ledgers claim.

    "broken" is wrong with at most the sum of all error probabilities: 1 - confidence of each bound, and the family-wise
    error of the checks. "consistent" is no proof: what the canaries cannot see, no bound shows.
    """
    best = max(bounds, key=lambda bound: bound.epsilon)
    promise = f"epsilon {math.ceil(100 * claimed) / 100:.2f} at delta {delta:g}"
    if best.epsilon > claimed:
        said = (
            f"Broken: the ledgers claim {promise}, and the run shows at least {best.epsilon:.2f} "
            f"({best.name}, {best.confidence:.0%} confidence)."
        )
        return Verdict("broken", said)
    if flagged := [finding for finding in findings if finding.flagged]:
        which = "; ".join(f"{finding.check}: {finding.said}" for finding in flagged)
        return Verdict("broken", f"Broken: the ledgers claim {promise}, and a check failed ({which}).")
    share = best.epsilon / claimed if claimed else 0.0
    if share < _TELLING:
        said = (
            f"Too weak to say: the ledgers claim {promise}, and the best lower bound is {best.epsilon:.2f} "
            f"({best.name}); audit more rounds, or with more canaries."
        )
        return Verdict("too weak", said)
    said = (
        f"Consistent: the ledgers claim {promise}, the best lower bound is {best.epsilon:.2f} ({share:.0%}; "
        f"{best.name}, {best.confidence:.0%} confidence), and every check passed."
    )
    return Verdict("consistent", said)
