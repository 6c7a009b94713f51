"""The same record twice, and the same patient with two labels.

Rows of a table with few columns coincide by chance. How often is estimated as if columns were independent; they are
not, so that a count has to be ten times what that says before it is worth a warning. Images, series and texts of
some length never coincide by chance.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.finding import Finding, Groups, share
from fedmodels.data.checks.statistics import most_by_chance
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Summary
from fedmodels.data.dataset import TEST
from fedmodels.study_input import TableInput, TextInput

_DEPENDENCE = 10.0
SHORT_TEXT = 10
"""Tokens of a text so short that two people may well write the same."""


def labels_of_patients(subject: Subject) -> Iterator[Finding]:
    """Patients who have records of different labels."""
    if len(subject.one_each) == len(subject.data):
        return
    pairs = np.unique(np.column_stack([subject.person, subject.data.y]), axis=0)[:, 0]
    both = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    total, torn = len(subject.one_each), set(both.tolist())
    if not len(both):
        yield Finding("labels of patients", "ok", "no patient has two labels")
        return
    yield Finding(
        "labels of patients",
        "warn",
        f"{len(both):,} of {total:,} patients ({share(len(both), total)}) have records of different labels",
        "right if a label belongs to a record (a visit, an image); if it belongs to the patient, correct the export",
        {"patients": len(both)},
        [group for group in _grouped(subject.person.astype(np.uint64)) if subject.person[group[0]] in torn],
    )


def exact(subject: Subject, summary: Summary) -> Iterator[Finding]:
    """Records of different patients that are the same to the bit."""
    groups = [group for group in _grouped(summary.digests) if len(np.unique(subject.person[group])) > 1]
    if isinstance(subject.study.input, TextInput) and subject.data.lengths is not None:
        lengths = subject.data.lengths
        groups = [group for group in groups if lengths[group[0]] >= SHORT_TEXT]
    chance = 0.0
    if isinstance(subject.study.input, TableInput):
        chance = coincidences(_table_codes(subject))
    yield from report(subject, groups, "duplicates", "the same", chance)


def report(subject: Subject, groups: Groups, name: str, alike: str, chance: float) -> Iterator[Finding]:
    """What groups of alike records of different patients mean: none, mere copies, copies across splits, two labels."""
    total = len(subject.data)
    concerned = sum(len(group) for group in groups)
    pairs = _pairs(groups)
    numbers = {"records": concerned, "groups": len(groups), "pairs_by_chance": round(chance, 3)}
    if pairs <= most_by_chance(_DEPENDENCE * chance):
        said = f"no two patients have {alike} record"
        if groups:
            said = f"{concerned:,} records are {alike} as another patient's, no more than chance brings in such columns"
        yield Finding(name, "ok", said, numbers=numbers)
        return
    yield Finding(
        name,
        "warn",
        f"{concerned:,} of {total:,} records ({share(concerned, total)}) are {alike} as another patient's, in "
        f"{len(groups):,} group{'s' if len(groups) > 1 else ''}",
        "find out whether they are one person under two names: each name would be protected, and counted, for itself",
        numbers,
        groups,
    )
    yield from _across_splits(subject, groups, name, alike)
    yield from _with_two_labels(subject, groups, name, alike)


def _across_splits(subject: Subject, groups: Groups, name: str, alike: str) -> Iterator[Finding]:
    split = subject.data.split
    across = [group for group in groups if len(np.unique(split[group])) > 1]
    if not across:
        return
    tests, known = int((split == TEST).sum()), sum(int((split[group] == TEST).sum()) for group in across)
    # Once the share that the model has seen before is above a metric's standard error, the metric is off by more.
    grave = known / tests > 0.5 / tests**0.5
    yield Finding(
        f"{name} across splits",
        "fail" if grave else "warn",
        f"{known:,} of {tests:,} test records ({share(known, tests)}) are {alike} as a training record",
        "give both to the same patient, so that they come into the same split; until then metrics are too good",
        {"test_records": known},
        across,
    )


def _with_two_labels(subject: Subject, groups: Groups, name: str, alike: str) -> Iterator[Finding]:
    y = subject.data.y
    torn = [group for group in groups if len(np.unique(y[group])) > 1]
    if not torn:
        return
    count, total = sum(len(group) for group in torn), len(subject.data)
    yield Finding(
        f"{name} with different labels",
        "warn",
        f"{count:,} records ({share(count, total)}) are {alike} as another with a different label",
        "look at them: at most one of the labels is right, and the same mistake is likely in records without a twin",
        {"records": count},
        torn,
    )


def rows_but_one(subject: Subject) -> Iterator[Finding]:
    """Rows of a table that differ in one column alone: a typing error or a later correction of the same patient."""
    codes = _table_codes(subject)
    count = len(codes)
    if codes.shape[1] < 3:
        return
    weights = np.random.default_rng(1978).integers(1, 1 << 63, size=codes.shape[1], dtype=np.uint64) | np.uint64(1)
    hashed = (codes.astype(np.uint64) + np.uint64(1)) * weights
    mixed = (hashed ^ (hashed >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15)
    whole = mixed.sum(axis=1, dtype=np.uint64)
    found: list[npt.NDArray[np.int64]] = []
    chance = 0.0
    for column in range(codes.shape[1]):
        for group in _grouped(whole - mixed[:, column]):
            differ = len(np.unique(codes[group, column])) > 1
            if differ and len(np.unique(subject.person[group])) > 1:
                found.append(group)
        chance += coincidences(np.delete(codes, column, axis=1))
    if count > 1:
        yield from report(subject, merged(found, count), "near duplicates", "nearly the same", chance)


def coincidences(codes: npt.NDArray[np.int64]) -> float:
    """Expected pairs of equal rows [n, columns] if columns were independent.

    One pair is left out of the count, so that a single copy does not explain itself.
    """
    count = len(codes)
    others = count * (count - 1) // 2 - 1
    if others < 1:
        return 0.0
    alike = [_pairs_of(np.bincount(column)) - 1 for column in codes.T]
    return others * float(np.prod([max(pairs, 0) / others for pairs in alike]))


def _pairs(groups: Groups) -> int:
    return _pairs_of(np.array([len(group) for group in groups], dtype=np.int64))


def _pairs_of(sizes: npt.NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1)).sum()) // 2


def merged(groups: Groups, count: int) -> list[npt.NDArray[np.int64]]:
    """Groups of records below `count` that share a record, as one group each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(groups):
        return []
    heads = np.concatenate([np.full(len(group), group[0]) for group in groups])
    members = np.concatenate(list(groups))
    _, component = connected_components(coo_array((np.ones(len(heads)), (heads, members)), shape=(count, count)))
    return _grouped(component.astype(np.uint64))


def _grouped(keys: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
    """Positions of every key that occurs more than once."""
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.concatenate([[True], keys[order][1:] != keys[order][:-1], [True]]))
    several = np.flatnonzero(np.diff(edges) > 1)
    return [order[edges[number] : edges[number + 1]].astype(np.int64) for number in several]


def _table_codes(subject: Subject) -> npt.NDArray[np.int64]:
    """[n, columns] number of each record's value in each column of the study, missing being one of the values."""
    input_ = subject.study.input
    if not isinstance(input_, TableInput):
        raise TypeError("only tables have columns")
    x = np.concatenate([np.asarray(block.x) for _, block in subject.blocks("comparing rows")])
    codes, start = [], 0
    for column in input_.columns:
        width = max(len(column.values), 1) + 1
        codes.append(np.unique(x[:, start : start + width], axis=0, return_inverse=True)[1].reshape(-1))
        start += width
    return np.column_stack(codes).astype(np.int64)
