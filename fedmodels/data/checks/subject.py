"""What is examined: a site's records in the study's form, with what they were before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.source import Source
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.study import Study

Progress = Callable[[str, int, int], None]
"""Told what is done, how many records of it are, and of how many."""

_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True, repr=False)
class Subject:
    """One site's labelled records and the study. All arrays are aligned with `data`."""

    study: Study
    data: Dataset
    source: Source
    progress: Progress = lambda what, done, total: None  # noqa: ARG005

    @cached_property
    def person(self) -> npt.NDArray[np.int64]:
        """[n] number of each record's patient."""
        return np.unique(self.data.patients, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def one_each(self) -> npt.NDArray[np.int64]:
        """One record of each patient, by chance: independent of each other, as statistics want them."""
        shuffled = np.random.default_rng(1).permutation(len(self.data))
        return np.sort(shuffled[np.unique(self.person[shuffled], return_index=True)[1]]).astype(np.int64)

    @cached_property
    def patients(self) -> npt.NDArray[np.int64]:
        """[2, labels] number of patients with any record of a label, in training and test."""
        return np.array(
            [
                [
                    len(np.unique(self.person[(self.data.split == part) & (self.data.y == label)]))
                    for label in self.range
                ]
                for part in (TRAIN, TEST)
            ]
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.study.study.labels

    @property
    def range(self) -> range:
        return range(len(self.labels))

    def blocks(self, what: str) -> Iterator[tuple[slice, Dataset]]:
        """The records block by block, so that images may lie on disk; no block is larger than 32 MiB."""
        total = len(self.data)
        size = int(np.prod(self.data.x.shape[1:])) * self.data.x.dtype.itemsize
        step = max(1, min(total, _BLOCK_BYTES // max(size, 1)))
        for start in range(0, total, step):
            part = slice(start, min(start + step, total))
            yield part, self.data.take(np.arange(part.start, part.stop))
            self.progress(what, part.stop, total)
