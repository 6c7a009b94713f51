"""Dividing pooled patients among simulated hospitals, always whole patients."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.data.dataset import Dataset
from fedmodels.errors import UsageError

_FEWEST = 5
_TRIES = 100


@dataclass(frozen=True)
class Partition:
    """`iid`, or `dirichlet:ALPHA` (Hsu et al. 2019): small ALPHA, very different case mixes; large, nearly iid."""

    alpha: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Partition":
        if text == "iid":
            return cls()
        match = re.fullmatch(r"dirichlet:([0-9]*\.?[0-9]+)", text)
        if match and float(match[1]) > 0:
            return cls(float(match[1]))
        raise UsageError(f"unknown partition `{text}`", where="--partition", fix="use `iid` or, say, `dirichlet:0.5`")


def divide(data: Dataset, hospitals: int, partition: Partition, seed: int) -> list[frozenset[str]]:
    """The patients of each hospital: disjoint, together all, at least five training patients each.

    Training and test patients of one label are divided in the same proportions, so that a hospital is tested on the
    case mix that it trains on. The same seed gives the same division.
    """
    generator = np.random.default_rng(seed)
    patients, first = np.unique(data.patients, return_index=True)
    labels, splits = data.y[first], data.split[first]
    if len(patients) < hospitals * _FEWEST:
        raise UsageError(f"{len(patients)} patients are too few for {hospitals} hospitals", where="--sites")
    for _ in range(_TRIES):
        owner = _owners(labels, splits, hospitals, partition, generator)
        if np.bincount(owner[splits == 0], minlength=hospitals).min() >= _FEWEST:
            return [frozenset(patients[owner == hospital].tolist()) for hospital in range(hospitals)]
    raise UsageError(
        "no division gives every hospital five training patients", where="--partition",
        fix="use fewer hospitals or a larger Dirichlet parameter",
    )  # fmt: skip


def _owners(
    labels: npt.NDArray[np.int64],
    splits: npt.NDArray[np.uint8],
    hospitals: int,
    partition: Partition,
    generator: np.random.Generator,
) -> npt.NDArray[np.int64]:
    owner = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        shares = np.full(hospitals, 1.0 / hospitals)
        if partition.alpha is not None:
            shares = generator.dirichlet(np.full(hospitals, partition.alpha))
        for split in np.unique(splits):
            rows = generator.permutation(np.flatnonzero((labels == label) & (splits == split)))
            # A random offset spreads the remainders, or the last hospital would always be the smallest.
            edges = np.floor(np.cumsum(shares) * len(rows) + generator.random()).clip(0, len(rows)).astype(int)
            edges[-1] = len(rows)
            owner[rows] = np.searchsorted(edges, np.arange(len(rows)), side="right").clip(0, hospitals - 1)
    return owner
