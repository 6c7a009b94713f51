"""Who is there: records, patients, splits and classes."""

from collections.abc import Iterator

import numpy as np

from fedmodels.data.checks.finding import Finding, listed, share
from fedmodels.data.checks.statistics import uncertainty, wilson
from fedmodels.data.checks.subject import Subject
from fedmodels.data.dataset import TEST, TRAIN

_PARTS = {TRAIN: "training", TEST: "test"}
_COARSE = 0.1  # a metric that may be off by more says nothing about one model being better than another
_LEAST_OF_A_CLASS = 10  # with fewer, the standard error of a sensitivity of 0.9 is above 0.1
_FAR = 2.0  # ratio of odds


def records(subject: Subject) -> Iterator[Finding]:
    """Numbers of records and patients, and whether a few patients have most of the records."""
    count, patients = len(subject.data), len(subject.one_each)
    each = np.bincount(subject.person)
    most = int(each.max())
    said = f"{count:,} records of {patients:,} patients, in the form that the study wants"
    numbers = {"records": count, "patients": patients, "most_of_one_patient": most}
    # Whoever has more than the square root of all records weighs more in every mean than sampling error does.
    heavy = np.flatnonzero(each > max(10, count**0.5))
    if len(heavy) and patients > 1:
        yield Finding(
            "records",
            "warn",
            f"{said}; {len(heavy)} of them have {share(int(each[heavy].sum()), count)} of all records, up to {most:,}",
            "check that the patient column is not a default value, a device or a ward: privacy is per patient, and "
            "all records that share a name count as one",
            numbers,
            [np.flatnonzero(subject.person == person) for person in heavy],
        )
    else:
        yield Finding("records", "ok", f"{said}; at most {most:,} of one patient", numbers=numbers)


def splits(subject: Subject) -> Iterator[Finding]:
    """Training and test patients, and what the test patients can tell."""
    train, test = (subject.data.patients_in(part) for part in (TRAIN, TEST))
    numbers = {"train_patients": train, "test_patients": test}
    said = f"{train:,} training and {test:,} test patients"
    if not train:
        yield Finding("split", "fail", said, "nothing can be learnt: correct `[split]` in the data binding", numbers)
    elif not test:
        do = "give some patients to the test split, or this hospital adds nothing to the evaluation"
        yield Finding("split", "warn", said, do, numbers)
    else:
        error = uncertainty(test)
        rare = [
            name for name, number in zip(subject.labels, subject.patients[TEST], strict=True)
            if number < _LEAST_OF_A_CLASS
        ]  # fmt: skip
        said += f": an accuracy measured here alone is uncertain by up to ±{error:.2f}"
        if rare:
            said += f"; fewer than {_LEAST_OF_A_CLASS} test patients of {listed(rare)}"
        few = error > _COARSE or rare
        do = "do not judge a model by this hospital's own metrics; those of all hospitals together count more patients"
        yield Finding("split", "warn" if few else "ok", said, do if few else "", numbers)


def classes(subject: Subject) -> Iterator[Finding]:
    """Patients of each class in each split, against each other and against the study's class weights."""
    numbers = {
        f"{_PARTS[part]}_{name}": float(subject.patients[part, label])
        for part in _PARTS for label, name in enumerate(subject.labels)
    }  # fmt: skip
    counts = subject.patients[TRAIN]
    said = "; ".join(
        f"{name} {counts[label]:,} + {subject.patients[TEST, label]:,}" for label, name in enumerate(subject.labels)
    )
    said = f"patients in training + test: {said}"
    absent = [name for name, count in zip(subject.labels, counts, strict=True) if not count]
    if len(absent) == len(subject.labels) - 1:
        do = "check the `[labels]` of the data binding; with one class a hospital teaches the model nothing but its own"
        yield Finding("classes", "warn", f"only one class in training; {said}", do, numbers)
    elif absent:
        do = "check the `[labels]` of the data binding"
        yield Finding("classes", "warn", f"no training patient of {listed(absent)}; {said}", do, numbers)
    else:
        yield Finding("classes", "ok", said, numbers=numbers)
    yield from _unlike_splits(subject)
    yield from _unlike_weights(subject)


def _unlike_splits(subject: Subject) -> Iterator[Finding]:
    """Classes of which training and test have shares that sampling does not explain."""
    totals = subject.patients.sum(axis=1)
    if not totals.all():
        return
    unlike = []
    for label, name in enumerate(subject.labels):
        (low, high), (other_low, other_high) = (
            wilson(subject.patients[part, label], totals[part], 2 * len(subject.labels)) for part in _PARTS
        )
        if low > other_high or other_low > high:
            unlike.append(name)
    if unlike:
        yield Finding(
            "classes of the splits",
            "warn",
            f"training and test have different shares of {listed(unlike)}",
            "split by chance (`test_fraction`), or say in the results that the test patients are of another kind",
        )


def _unlike_weights(subject: Subject) -> Iterator[Finding]:
    """Classes whose share is far from the one for which the study's class weights would be balanced."""
    weights = subject.study.training.class_weights
    total = int(subject.patients[TRAIN].sum())
    if not weights or not total:
        return
    meant = np.array([1 / weight for weight in weights])
    meant /= meant.sum()
    far = []
    for label, name in enumerate(subject.labels):
        low, high = wilson(subject.patients[TRAIN, label], total, len(weights))
        odds = meant[label] / (1 - meant[label])
        if low / max(1 - low, 1e-12) > _FAR * odds or high / max(1 - high, 1e-12) < odds / _FAR:
            far.append(f"{name} ({share(subject.patients[TRAIN, label], total)}, meant for {meant[label]:.0%})")
    if far:
        yield Finding(
            "class weights",
            "warn",
            f"the study's class weights are for other shares than here: {listed(far)}",
            "nothing to correct here if the labels are right; tell the consortium, for the weights are the study's",
        )
    else:
        yield Finding("class weights", "ok", "the shares of the classes are near those the study's weights are for")
