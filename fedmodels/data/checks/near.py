"""Nearly the same record under two patients: see `hamming` for pictures, `sketches` for texts and series."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.duplicates import merged, report, rows_but_one
from fedmodels.data.checks.finding import Finding
from fedmodels.data.checks.hamming import hashes, pairs_within, radius
from fedmodels.data.checks.sketches import candidates, similar
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Summary, elements_of
from fedmodels.study_input import TableInput


def near_duplicates(subject: Subject, summary: Summary) -> Iterator[Finding]:
    """Records of different patients that are nearly, but not quite, the same."""
    if isinstance(subject.study.input, TableInput):
        yield from rows_but_one(subject)
        return
    pairs = _pictures(subject, summary) if summary.frequencies is not None else _sets(subject, summary)
    different = summary.digests[pairs[:, 0]] != summary.digests[pairs[:, 1]]
    pairs = pairs[different & (subject.person[pairs[:, 0]] != subject.person[pairs[:, 1]])]
    yield from report(subject, merged(list(pairs), len(subject.data)), "near duplicates", "nearly the same", 0.0)


def _pictures(subject: Subject, summary: Summary) -> npt.NDArray[np.int64]:
    """Pairs among the different pictures that are not constant."""
    spectra = summary.frequencies
    if spectra is None:
        raise ValueError("only pictures have frequencies")
    once = np.sort(np.unique(summary.digests, return_index=True)[1])
    rows = once[spectra[once].any(axis=1)]
    bits = hashes(spectra[rows]) if len(rows) else np.empty((0, 1), dtype=np.uint64)
    near = radius(bits)
    if near < 0:
        return np.empty((0, 2), dtype=np.int64)
    pairs = pairs_within(bits, near, lambda done, total: subject.progress("comparing pictures", done, total))
    return np.asarray(rows[pairs], dtype=np.int64)


def _sets(subject: Subject, summary: Summary) -> npt.NDArray[np.int64]:
    if summary.sketches is None:
        raise ValueError("only texts and series have sketches")
    pairs = candidates(summary.sketches)
    same = similar(pairs, lambda rows: elements_of(subject.data.take(rows), subject.study.input))
    return pairs[same]
