"""Peak memory of a few steps, each contender in a process of its own."""

import multiprocessing
from multiprocessing.connection import Connection

import torch

from fedmodels import allocator
from fedmodels.errors import RunError
from fedmodels.models.device import device
from simulations.benchmarks.aggregation.memory import status
from simulations.benchmarks.steps.cases import cases
from simulations.benchmarks.steps.contenders import CONTENDERS

_STEPS = 2


def peak(case: str, contender: str) -> int:
    """Bytes: on the CPU resident memory, the interpreter and torch included; on CUDA what torch allocates there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, case, contender))
    process.start()
    theirs.close()
    try:
        taken: int = ours.recv()
    except EOFError:
        raise RunError("the process that measures memory died", where=f"{case}, {contender}") from None
    finally:
        ours.close()
        process.join()
    return taken


def _measure(connection: Connection, case: str, contender: str) -> None:
    allocator.tune()
    step = next(c for c in CONTENDERS if c.name == contender).prepare(next(c for c in cases() if c.name == case))
    for _ in range(_STEPS):
        step()
    where = device()
    connection.send(torch.cuda.max_memory_allocated(where) if where.type == "cuda" else status("VmHWM"))
