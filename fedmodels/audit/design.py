"""Which canaries an audit has, at which hospitals, and how their traces are read out of what hospitals contribute.

Each is inside its hospital's training data by the flip of a coin. The others are nowhere, but their coordinates are
read all the same: they show what a trace looks like without a canary. One in `_LONG_EVERY` has a gradient far longer
than the clip, so that a clip that is missing shows. A few have their gradient not in a coordinate of their own but in
random directions of the model's weights, where a mechanism cannot tell them from patients.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.dp.canaries import Canaries
from fedmodels.errors import PrivacyError

_LONG_EVERY = 10
_LONG = 10.0  # clips

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Size:
    """How many canaries: with a free coordinate each, and in the model's weights."""

    free: int
    inner: int

    def __post_init__(self) -> None:
        if self.free < 100 or self.inner < 0:
            raise PrivacyError("an audit needs at least 100 canaries with a coordinate of their own")


@dataclass(frozen=True, eq=False, repr=False)
class Design:
    """k canaries, the first `free` of them with a coordinate of their own.

    owner: [k] hospital of each; inside: [k] whether it is in that hospital's data; lengths: [free] norms of their
    gradients in units of the clip C, 1 or more; directions: [k - free, D] of length 1; names: [k].
    """

    clip: float
    owner: Integers
    inside: Flags
    lengths: Floats
    directions: npt.NDArray[np.float32]
    names: npt.NDArray[np.str_]

    @property
    def free(self) -> int:
        return len(self.lengths)

    @property
    def long(self) -> Flags:
        """[free] whose gradient is longer than the clip."""
        return self.lengths > 1.0

    def members(self, hospital: int) -> Integers:
        """The canaries inside this hospital's data, in the order of its `Canaries`."""
        return np.flatnonzero(self.inside & (self.owner == hospital))

    def at(self, hospital: int) -> Canaries:
        """New canaries for one run of this hospital."""
        members = self.members(hospital)
        columns = members[members < self.free]
        return Canaries(
            self.names[members],
            columns,
            (self.clip * self.lengths[columns]).astype(np.float32),
            self.directions[members[members >= self.free] - self.free] * np.float32(self.clip),
            self.free,
        )

    def read(self, values: Floats) -> Floats:
        """[k] traces in units of C: the free coordinates, and the others' components; values: [D + free]."""
        weights = len(values) - self.free
        inner = self.directions @ values[:weights].astype(np.float32)
        return np.concatenate([values[weights:], inner]) / self.clip


def draw_design(hospitals: int, size: Size, parameters: int, clip: float, generator: np.random.Generator) -> Design:
    """Canaries for `hospitals` of a model with D = `parameters` weights; a generator seeded with secret numbers."""
    count = size.free + size.inner
    tag = generator.bytes(2).hex()  # names are short because hospitals sort them in every round
    directions = generator.standard_normal((size.inner, parameters)).astype(np.float32)
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), np.float32(1e-12))
    return Design(
        clip=clip,
        owner=np.arange(count) % hospitals,
        inside=generator.random(count) < 0.5,
        lengths=np.where((np.arange(size.free) // hospitals) % _LONG_EVERY == 0, _LONG, 1.0),
        directions=directions,
        names=np.array([f"~{tag}{number:0{len(str(count))}}" for number in range(count)]),
    )
