"""Two cores for a computation of milliseconds whose time goes to calls that release Python's lock."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

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
        self.thread = 0

    @contextmanager
    def on_another_core(self) -> Iterator[None]:
        """Meanwhile the caller stays on the core it runs on, and the helper off it; nothing where that cannot be said.

        Left alone, Linux wakes either thread on the core of the other, each time that they wait for Python's lock, and
        takes tens of milliseconds to see that a core is idle: after a pause, two threads mask the first vectors on one.
        """
        if _this_core is None:
            yield
            return
        if not self.thread:
            self.thread = self.pool.submit(threading.get_native_id).result()
        allowed, here = os.sched_getaffinity(0), _this_core()
        if here not in allowed or len(allowed) == 1:
            yield
            return
        with suppress(OSError):  # another set of cores since: a matter of speed only
            os.sched_setaffinity(self.thread, allowed - {here})
            os.sched_setaffinity(0, {here})
        try:
            yield
        finally:
            with suppress(OSError):
                os.sched_setaffinity(0, allowed)


def _core_finder() -> Callable[[], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None


_helper = _Helper()
_this_core = _core_finder()


def at_once(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Make both calls, the second in another thread; on one core, one after the other.

    Returns once both have ended. What either raises is raised here, the first's before the second's. Neither may call
    `at_once` itself, nor start a thread, which would inherit the caller's one core.
    """
    if CORES == 1:
        first()
        second()
        return
    with _helper.on_another_core():
        other = _helper.pool.submit(second)
        try:
            first()
        except BaseException:
            other.exception()  # wait: it works in the caller's memory
            raise
        other.result()
