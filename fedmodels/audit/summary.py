"""All bounds of a run, at its end and on the way."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedmodels.audit.bounds import Bound, from_guesses, from_trajectories
from fedmodels.audit.evidence import Evidence, trajectory_scores
from fedmodels.audit.steps import from_steps

CONFIDENCE = 0.99
"""Of each bound alone."""


@dataclass(frozen=True)
class Point:
    """The bounds after some rounds; claimed: by the ledgers at that time."""

    rounds: int
    steps: int
    claimed: float
    bounds: tuple[Bound, ...]


def bounds_after(evidence: Evidence, rounds: Sequence[int], confidence: float = CONFIDENCE) -> list[Point]:
    """Bounds of the promise's observer after each of these numbers of rounds, the weakest assumption first.

    Sharp edge: the confidence is that of each point and bound. Of many points, the highest is no bound.
    """
    scores = trajectory_scores(evidence, evidence.colluders)
    inside, delta = evidence.design.inside[: evidence.design.free], evidence.plan.delta
    points = []
    for count in rounds:
        every = (
            *from_guesses(scores[count - 1], inside, delta, confidence),
            from_trajectories(scores[count - 1], inside, delta, confidence),
            from_steps(evidence, evidence.colluders, confidence, count),
        )
        steps = count * evidence.plan.steps_per_release
        points.append(Point(count, steps, evidence.epsilon(count), every))
    return points


def checkpoints(rounds: int, count: int = 8) -> list[int]:
    """About `count` numbers of rounds up to all of them, none twice."""
    return sorted({max(1, round(rounds * part / count)) for part in range(1, count + 1)})
