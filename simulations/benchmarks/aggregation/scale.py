"""One `recover` round of a large consortium with dropouts, end to end in one process: what its two sides take."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from fedmodels import secagg
from fedmodels.errors import RunError
from simulations.benchmarks.aggregation.contest import Case, Inputs
from simulations.benchmarks.aggregation.recover import threshold
from simulations.benchmarks.aggregation.retry import MODEL_DIGEST, set_up


@dataclass(frozen=True)
class Large:
    """words: parameters. dropped: how many of the contributors never upload."""

    words: int
    contributors: int
    dropped: int


@dataclass(frozen=True)
class Scale:
    """Seconds of a round: what a hospital takes in the mean, all of them one after the other, and the coordinator."""

    round: Large
    hospital_seconds: float
    hospitals_seconds: float
    coordinator_seconds: float


class _Watch:
    """Seconds by side."""

    def __init__(self) -> None:
        self.hospitals = self.coordinator = 0.0

    @contextmanager
    def hospital(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.hospitals += time.perf_counter() - start

    @contextmanager
    def aggregator(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.coordinator += time.perf_counter() - start


def measure(large: Large, progress: Callable[[str], None]) -> Scale:
    """Run the round once; set-up is not counted. `RunError` unless the sum is the plain sum of those who uploaded."""
    parties, watch = set_up(large.contributors, threshold(large.contributors)), _Watch()
    inputs = Inputs(Case(large.words, large.contributors, dropout=False))
    names = tuple(parties.ready)
    uploading = names[: large.contributors - large.dropped]
    states: dict[str, secagg.State] = dict(parties.ready)
    expected = np.zeros(large.words, np.uint32)
    _, session = secagg.open_recovery(parties.aggregator, 1, names, MODEL_DIGEST, large.words)
    for i, name in enumerate(uploading):
        progress(f"{large.contributors} hospitals, {large.dropped} drop out: upload {i + 1}")
        vector = inputs.integers(i)
        expected += vector
        with watch.hospital():
            states[name], upload = secagg.upload_recover(
                states[name], session.request, MODEL_DIGEST, vector, os.urandom, in_place=True
            )
        with watch.aggregator():
            session.add(upload.header, upload.vector)
    _unmask(session, states, watch)
    if not np.array_equal(session.result(), expected):
        raise RunError("the sum is wrong", where="the large round", fix="report it: this is a bug")
    return Scale(large, watch.hospitals / len(uploading), watch.hospitals, watch.coordinator)


def _unmask(session: secagg.RecoverSession, states: dict[str, secagg.State], watch: _Watch) -> None:
    """Steps A and B, until the sum is open."""
    while True:
        with watch.aggregator():
            requests = session.advance()
        if not requests:
            return
        for name, request in requests.items():
            with watch.hospital():
                states[name], reply = secagg.reveal(states[name], request)
            with watch.aggregator():
                session.answer(reply)
