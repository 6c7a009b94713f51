"""Two cores for a computation of milliseconds whose time goes to calls that release Python's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CORES = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""Threads that work at a time. More than two were not measured to gain: between the calls, they share the lock."""


class _Helper:
    """A thread that waits for work: to wake one takes a third of the time of starting one. It starts when needed."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)  # a child process has no threads

    def renew(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="second-core")


_helper = _Helper()


def at_once(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Make both calls, the second in another thread; on one core, one after the other.

    Returns once both have ended. What either raises is raised here, the first's before the second's. Neither may call
    `at_once` itself.
    """
    if CORES == 1:
        first()
        second()
        return
    other = _helper.pool.submit(second)
    try:
        first()
    except BaseException:
        other.exception()  # wait: it works in the caller's memory
        raise
    other.result()
