"""Peak resident growth of an aggregator: a fresh process that does nothing else, fed through a pipe."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from fedmodels.errors import RunError
from fedmodels.secagg import Vector
from simulations.benchmarks.aggregation.contest import Case, Inputs

Aggregate = Callable[[Connection, int], None]
Contribute = Callable[[Connection, Case, Inputs], Vector]

_PIECE = 1 << 18  # words: a vector crosses in pieces, so that the pipe itself holds no second copy of it


def send(connection: Connection, vector: Vector) -> None:
    for start in range(0, vector.size, _PIECE):
        connection.send_bytes(vector[start : start + _PIECE].data)


def receive(connection: Connection, words: int) -> Vector:
    """A vector that `send` sent, in memory of its own."""
    vector = np.empty(words, np.uint32)
    for start in range(0, words, _PIECE):
        connection.recv_bytes_into(vector[start : start + _PIECE])
    return vector


def peak_growth(aggregate: Aggregate, contribute: Contribute, case: Case) -> int:
    """Bytes by which the peak memory of a process running `aggregate` exceeds what it held before it began.

    VmHWM of Linux, which unlike `ru_maxrss` is not inherited from the parent. The peak may lie in the imports before,
    so this is an upper bound.
    """
    inputs = Inputs(case)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, aggregate, case.words))
    process.start()
    try:
        theirs.close()
        total = contribute(ours, case, inputs)
        growth: int = ours.recv()
    finally:
        ours.close()
        process.join()
    if not np.array_equal(total, inputs.total):
        raise RunError("the sum is wrong", where="memory of the aggregator", fix="report it: this is a bug")
    return growth


def _measure(connection: Connection, aggregate: Aggregate, words: int) -> None:
    before = status("VmRSS")
    aggregate(connection, words)
    connection.send(status("VmHWM") - before)


def status(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
