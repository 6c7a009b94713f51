"""`examine`: all checks on one site's records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmodels.data.checks.columns import categories, constants, drift, missingness, ranges
from fedmodels.data.checks.content import content
from fedmodels.data.checks.duplicates import exact, labels_of_patients
from fedmodels.data.checks.finding import Finding
from fedmodels.data.checks.leakage import leakage
from fedmodels.data.checks.marginals import Marginal, marginals
from fedmodels.data.checks.near import near_duplicates
from fedmodels.data.checks.population import classes, records, splits
from fedmodels.data.checks.source import read_source
from fedmodels.data.checks.subject import Progress, Subject
from fedmodels.data.checks.summary import Summary, summarise
from fedmodels.data.load import load
from fedmodels.errors import FedmodelsError
from fedmodels.study import Study


@dataclass(frozen=True, repr=False)
class Examination:
    """findings: in reading order. What they were found in is None where the records could not be read."""

    findings: tuple[Finding, ...]
    subject: Subject | None = None
    summary: Summary | None = None
    marginals: tuple[Marginal, ...] = ()

    @property
    def failed(self) -> bool:
        return any(finding.verdict == "fail" for finding in self.findings)


def examine(binding: Path, study: Study, progress: Progress) -> Examination:
    """Every finding about the records that a binding names. What keeps them from being read is the only finding then.

    Raises nothing that `load` raises: a `FedmodelsError` becomes a finding with the same words.
    """
    try:
        progress("reading files", 0, 1)
        data = load(binding, study)
        subject = Subject(study, data, read_source(binding, study, data), progress)
    except FedmodelsError as error:
        place = f"{error.where}: " if error.where else ""
        return Examination((Finding("schema", "fail", place + error.what, error.fix),))
    return examine_records(subject)


def examine_records(subject: Subject) -> Examination:
    """Every finding about records that were read."""
    summary = summarise(subject)
    found = tuple(marginals(subject, summary))
    findings = [
        *records(subject), *splits(subject), *classes(subject), *_reading(subject),
        *labels_of_patients(subject), *exact(subject, summary), *near_duplicates(subject, summary),
        *leakage(subject, summary),
        *missingness(found), *constants(subject, found), *categories(subject, found),
        *ranges(subject, summary, found), *drift(found), *content(subject, summary),
    ]  # fmt: skip
    return Examination(tuple(findings), subject, summary, found)


def _reading(subject: Subject) -> Iterator[Finding]:
    """What was guessed, left out or changed when the files were read."""
    if notes := subject.data.notes:
        yield Finding("reading", "warn", "; ".join(notes), "see docs/data.md for what becomes of such data")
    else:
        yield Finding("reading", "ok", "nothing was guessed or left out when the files were read")
