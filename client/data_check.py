"""What `client doctor` says about the patients' records: the checks of `fedmodels data check`, in short."""

from collections.abc import Iterator

import numpy as np

from client.coordinator_check import Check
from client.site import Site
from fedmodels.data.checks.finding import worst
from fedmodels.data.checks.run import examine_records
from fedmodels.data.checks.source import read_source
from fedmodels.data.checks.subject import Subject
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.data.load import load
from fedmodels.errors import Refused

_TOLD = 3
_SAID_ALREADY = frozenset({"records", "split", "classes"})


def records(site: Site) -> Iterator[Check]:
    """Whether the records fit the approved study and the policy, and the worst of what else was found in them."""
    try:
        study = site.study
    except Refused:
        yield Check("data", "warn", "not checked: no study is approved", "approve one, then run this again")
        return
    binding = site.directory / "data.toml"
    data, least = load(binding, study), site.policy.min_patients
    train, test = data.patients_in(TRAIN), data.patients_in(TEST)
    said = f"{train} training patients and {test} test patients, in the form that the study wants"
    if train < least:
        yield Check(
            "data", "fail", f"{said}; `min_patients` is {least}", "take no part with so few, or change the policy"
        )
    elif not test:
        yield Check("data", "warn", said, "without test patients this hospital adds nothing to the evaluation")
    else:
        yield Check("data", "ok", said)
    yield _classes(data, study.study.labels, least)
    yield from _findings(site, Subject(study, data, read_source(binding, study, data)))


def _classes(data: Dataset, labels: tuple[str, ...], least: int) -> Check:
    training = data.split == TRAIN
    counts = [len(np.unique(data.patients[training & (data.y == label)])) for label in range(len(labels))]
    said = "training patients: " + ", ".join(f"{name} {count}" for name, count in zip(labels, counts, strict=True))
    few = [name for name, count in zip(labels, counts, strict=True) if count < least]
    if few:
        do = f"fewer than `min_patients` ({least}) of {', '.join(few)}: check the labels in data.toml"
        return Check("classes", "warn", said, do)
    return Check("classes", "ok", said)


def _findings(site: Site, subject: Subject) -> Iterator[Check]:
    findings = examine_records(subject).findings
    bad = [finding for finding in worst(findings) if finding.verdict != "ok" and finding.name not in _SAID_ALREADY]
    for finding in bad[:_TOLD]:
        yield Check(f"data: {finding.name}", finding.verdict, finding.what, finding.fix)
    more = f", {len(bad) - _TOLD} of them not shown here" if len(bad) > _TOLD else ""
    study = site.directory / "approved" / "study.toml"
    yield Check(
        "data check",
        "ok",
        f"{len(findings)} checks of the records, {len(bad)} more to look at{more}",
        f"all of them, with plots: fedmodels data check {study} {site.directory / 'data.toml'} --out FOLDER",
    )
