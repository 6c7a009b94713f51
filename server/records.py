"""What the coordinator notes about a run: finished rounds, dropouts, time."""

import time
from dataclasses import dataclass, field

from fedmodels import wire


@dataclass(frozen=True)
class RoundLine:
    """One finished training round, as written to `rounds.jsonl`. loss: None where privacy forbids to tell it."""

    round: int
    hospitals: tuple[str, ...]
    loss: float | None
    update_norm: float
    clipped: int
    epsilon: float | None
    seconds: float


@dataclass(frozen=True)
class Dropout:
    """A hospital that did not contribute to a session, and why, in the words of its refusal or node."""

    round: int
    kind: wire.Kind
    hospital: str
    reason: str


@dataclass(frozen=True)
class Seconds:
    """Wall time: waiting for trained contributions; adding, decoding and stepping; waiting for anything else."""

    training: float = 0.0
    aggregation: float = 0.0
    waiting: float = 0.0


@dataclass
class Clock:
    """Where the wall time of a run goes: see `Seconds`."""

    totals: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "aggregation": 0.0, "waiting": 0.0})

    def spend(self, purpose: str, since: float) -> float:
        """Book the time since `since` under `purpose`; returns now."""
        now = time.monotonic()
        self.totals[purpose] += now - since
        return now
