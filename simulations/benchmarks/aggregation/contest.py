"""What a contender is: a way to add vectors of hospitals, run in one process and timed phase by phase.

All contenders add the same integers, so that every sum of every repetition is checked bit by bit. Turning a real
update into integers is timed as a phase of its own. Vectors count as arrays: turning an array into bytes and back is
left out for everybody. Only one contributor is timed, the first; the aggregator is timed in full.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fedmodels.secagg import Vector

Phase = Literal["encode", "keys", "mask", "open", "add", "unmask"]
CONTRIBUTOR: Final[tuple[Phase, ...]] = ("encode", "keys", "mask", "open")
AGGREGATOR: Final[tuple[Phase, ...]] = ("add", "unmask")

_INTEGERS = 1 << 22  # Flower's default quantisation range


@dataclass(frozen=True)
class Case:
    """One round: `words` parameters, `contributors` hospitals, of which the last drops out instead of uploading."""

    words: int
    contributors: int
    dropout: bool

    @property
    def uploading(self) -> range:
        """The contributors whose vectors are in the sum."""
        return range(self.contributors - self.dropout)


class Inputs:
    """The same inputs for all contenders: an update as training leaves it, and the integers that are added."""

    def __init__(self, case: Case) -> None:
        random = np.random.default_rng(case.words)
        self.update: npt.NDArray[np.float32] = (1e-3 * random.standard_t(5, case.words)).astype(np.float32)
        self._base = random.integers(0, _INTEGERS, case.words, np.uint32)
        self._case = case

    def integers(self, contributor: int) -> Vector:
        """Another vector for each contributor."""
        return np.roll(self._base, contributor)

    @cached_property
    def total(self) -> Vector:
        """The plain sum modulo 2^32 over the contributors that upload."""
        total = np.zeros_like(self._base)
        for contributor in self._case.uploading:
            total += self.integers(contributor)
        return total


class Clock:
    """Seconds per phase of one round.

    encode: real update to integers. keys: key agreement and secret sharing, where it belongs to the round. mask:
    integers to upload. open: what a contributor does once the uploads are in. add, unmask: the aggregator.
    """

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys((*CONTRIBUTOR, *AGGREGATOR), 0.0)

    @contextmanager
    def phase(self, phase: Phase, *, timed: bool = True) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if timed:
            self.seconds[phase] += time.perf_counter() - start


@dataclass(frozen=True)
class Round:
    """The outcome of a round. bytes_up: what one contributor sends in all of it."""

    total: Vector
    bytes_up: int
    exchanges: int


RunRound = Callable[[Clock], Round]


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    prepare: does everything that happens once per run and returns a function that runs rounds. masks: how many
    keystreams a contributor adds in a round, 0 where that is not how it works. largest: a slow contender is measured
    for no more parameters and contributors than these, and extrapolated beyond. missing: why it cannot run, if so.
    """

    name: str
    prepare: Callable[[Case, Inputs], RunRound]
    masks: Callable[[Case], int] = lambda _: 0
    largest: Case | None = None
    missing: Callable[[], str] = lambda: ""
