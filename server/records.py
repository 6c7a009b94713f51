"""What the coordinator notes about a run: finished rounds, dropouts, time."""

from dataclasses import dataclass

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
