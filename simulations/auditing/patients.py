"""Whose records an audit looks at: a few patients under attack, and all the others as what an attacker knows anyway."""

from dataclasses import dataclass

import numpy as np

from fedmodels.data.dataset import Dataset
from fedmodels.errors import DataError

ATTACKED = 8


@dataclass(frozen=True, repr=False)
class Cast:
    """attacked: one record of each of `ATTACKED` patients; others: all records of all other patients."""

    attacked: Dataset
    others: Dataset


def choose(data: Dataset, seed: int, where: str) -> Cast:
    """Patients drawn at random, the same for the same seed.

    `DataError` where there are too few patients, or nobody else with the label of one who is attacked.
    """
    names, first = np.unique(data.patients, return_index=True)
    if len(names) <= ATTACKED:
        raise DataError(
            f"{len(names)} patients are too few", where=where, fix=f"name data of more than {ATTACKED} patients"
        )
    drawn = np.random.default_rng(seed).permutation(len(names))[:ATTACKED]
    attacked = data.take(first[drawn])
    others = data.take(np.flatnonzero(~np.isin(data.patients, attacked.patients)))
    if missing := len(set(attacked.y.tolist()) - set(others.y.tolist())):
        raise DataError(
            f"{missing} of the labels under attack have no other patient to compare with",
            where=where,
            fix="name data with several patients of each label",
        )
    return Cast(attacked, others)
