"""Training runs of a benchmark, spread over the cores: one process and one thread of torch for each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fedmodels import allocator

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many, and what was done last."""


class Job(Protocol):
    """A training run, as a value that can be sent to a process. name: for people who wait."""

    @property
    def name(self) -> str: ...
    def run(self) -> float: ...


J = TypeVar("J", bound=Job)


def run_all(jobs: Sequence[J], cores: int, progress: Progress) -> dict[J, float]:
    """What each job returns. The first error of one is raised once those that run or are next have ended."""
    found: dict[J, float] = {}
    with ProcessPoolExecutor(cores, get_context("spawn"), initializer=_begin) as workers:
        running = {workers.submit(job.run): job for job in jobs}
        try:
            for done in as_completed(running):
                found[running[done]] = done.result()
                progress(len(found), len(jobs), running[done].name)
        finally:
            workers.shutdown(cancel_futures=True)
    return found


def _begin() -> None:
    torch.set_num_threads(1)
    allocator.tune()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error that goes away at the end."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting")
        yield lambda done, of, what: bar.update(task, completed=done, total=of, description=what)
