"""Features that give the label away: recorded after the outcome, computed from it, or an artefact of where it was seen.

A single feature whose AUROC is above 0.95 in truth, not only in this sample, answers the study's question by itself.
The limit is the lower one of a confidence interval that holds for all features and classes together, on one record per
patient. Whether a value was measured at all is a feature of its own: a Youden index above one half there says that the
decision to measure tells more than half of what there is to know.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.finding import Finding, listed
from fedmodels.data.checks.statistics import auroc, auroc_lower
from fedmodels.data.checks.subject import Subject
from fedmodels.data.checks.summary import Kind, Predictor, Summary
from fedmodels.study_input import SeriesInput, TableInput, TextInput

_GIVEN_AWAY, _TELLING = 0.95, 0.75
_LEAST = 5  # patients of a class, or there is nothing to compare
# Named after what is known at the end of a stay, or after scores and codes that are made from what the label is.
_AFTERWARDS = re.compile(
    r"surviv|death|dead|died|deceas|mortal|outcome|discharg|length.?of.?stay|\blos\b|prognos|diagnos|\bicd\b|"
    r"saps|sofa|apache|follow.?up|label|target",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Hit:
    of: str
    kind: Kind
    label: int
    estimate: float
    lower: float


def leakage(subject: Subject, summary: Summary) -> Iterator[Finding]:
    """Single features that predict a label by themselves, and names that say why they would."""
    chosen = subject.one_each
    hits = [*_of_predictors(subject, summary.predictors, chosen)]
    hits += _of_tokens(subject, chosen) if isinstance(subject.study.input, TextInput) else []
    hits += _of_categories(subject, summary.predictors, chosen)
    yield from _bound(subject)
    yield from _by_name(subject)
    if not hits:
        yield Finding("leakage", "ok", f"not examined: fewer than {_LEAST} patients in every class but one")
        return
    best = max(hits, key=lambda hit: hit.estimate)
    told = [hit for hit in hits if hit.lower > _GIVEN_AWAY]
    # People name what ails them: a word may well be a label's own without anybody having written the label down.
    words = isinstance(subject.study.input, TextInput)
    if told:
        names = dict.fromkeys(_describe(subject, hit) for hit in sorted(told, key=lambda hit: -hit.lower))
        yield Finding(
            "leakage",
            "warn" if words else "fail",
            f"one feature alone predicts the label: {listed([*names])}",
            "find out whether it is known when the question is asked; if it is recorded afterwards, or marks where the "
            "patient was seen, remove it from the study or the data",
            {"auroc": round(best.estimate, 4), "features": len(names)},
        )
    else:
        yield Finding(
            "leakage",
            "ok",
            f"no single feature gives the label away; the best is {_describe(subject, best)}",
            numbers={"auroc": round(best.estimate, 4)},
        )
    yield from _telling_gaps(subject, [hit for hit in hits if hit.kind == "measured"])


def _of_predictors(
    subject: Subject, predictors: tuple[Predictor, ...], chosen: npt.NDArray[np.int64]
) -> Iterator[_Hit]:
    y = subject.data.y[chosen]
    labels = [label for label in subject.range if label or len(subject.labels) > 2]
    comparisons = len(predictors) * len(labels)
    for predictor in predictors:
        values = predictor.values[chosen]
        known = np.isfinite(values)
        for label in labels:
            positive = y[known] == label
            sizes = int(positive.sum()), int((~positive).sum())
            if min(sizes) < _LEAST:
                continue
            found = auroc(values[known], positive)
            found = max(found, 1 - found)
            yield _Hit(predictor.of, predictor.kind, label, found, auroc_lower(found, *sizes, comparisons * 2))


def _of_categories(
    subject: Subject, predictors: tuple[Predictor, ...], chosen: npt.NDArray[np.int64]
) -> Iterator[_Hit]:
    """Categories of several values, as a whole: the share of the label among the other half of the patients."""
    if not isinstance(subject.study.input, TableInput):
        return
    y, other = subject.data.y[chosen], np.arange(len(chosen)) % 2
    columns = [column for column in subject.study.input.columns if len(column.values) > 2]
    labels = [label for label in subject.range if label or len(subject.labels) > 2]
    for column in columns:
        names = {f"{column.name} = {value}" for value in column.values}
        cells = np.nan_to_num(np.column_stack([p.values[chosen] for p in predictors if p.of in names]))
        code = np.where(cells.any(axis=1), cells.argmax(axis=1), cells.shape[1])
        for label in labels:
            positive = y == label
            sizes = int(positive.sum()), int((~positive).sum())
            if min(sizes) < _LEAST:
                continue
            score = np.empty(len(chosen))
            for half in (0, 1):
                there = other != half
                count = np.bincount(code[there], minlength=cells.shape[1] + 1)
                share = np.bincount(code[there & positive], minlength=cells.shape[1] + 1)
                score[other == half] = ((share + positive.mean()) / (count + 1))[code[other == half]]
            estimate = auroc(score, positive)
            lower = auroc_lower(estimate, *sizes, len(columns) * len(labels))
            yield _Hit(column.name, "value", label, estimate, lower)


def _of_tokens(subject: Subject, chosen: npt.NDArray[np.int64]) -> list[_Hit]:
    """The best token for each label: whether a text has it, as a test for the label."""
    y, labels = subject.data.y[chosen], len(subject.labels)
    buckets = int(getattr(subject.study.input, "vocabulary", 1))
    counts = np.zeros((labels, buckets), dtype=np.int64)
    mine = np.zeros(len(subject.data), dtype=np.bool_)
    mine[chosen] = True
    for part, block in subject.blocks("counting words"):
        here = mine[part]
        tokens = np.asarray(block.x)[here].astype(np.int64)
        rows = np.arange(len(tokens))[:, None] * buckets + tokens
        pairs = np.unique(rows)
        counts += np.bincount(
            block.y[here][pairs // buckets] * buckets + pairs % buckets, minlength=labels * buckets
        ).reshape(labels, buckets)
    sizes = np.bincount(y, minlength=labels)
    counts[:, 0] = 0  # padding
    comparisons = 2 * labels * int((counts.sum(axis=0) > 0).sum())
    hits = []
    for label in subject.range:
        others = len(y) - sizes[label]
        if min(sizes[label], others) < _LEAST:
            continue
        with_it = counts[label] / sizes[label]
        without = (counts.sum(axis=0) - counts[label]) / others
        found = 0.5 + np.abs(with_it - without) / 2
        best = int(found.argmax())
        lower = auroc_lower(float(found[best]), int(sizes[label]), int(others), comparisons)
        hits.append(_Hit(f"one word (token {best})", "value", label, float(found[best]), lower))
    return hits


def _telling_gaps(subject: Subject, hits: list[_Hit]) -> Iterator[Finding]:
    telling = [hit for hit in hits if hit.lower > _TELLING]
    if telling:
        names = dict.fromkeys(_describe(subject, hit) for hit in sorted(telling, key=lambda hit: -hit.lower))
        yield Finding(
            "missingness and label",
            "warn",
            f"whether there is a value predicts the label: {listed([*names])}",
            "find out why it is there for some: if it is recorded because of the outcome, leave it out",
            {"features": len(names)},
        )
    elif hits:
        yield Finding("missingness and label", "ok", "what is missing does not give the label away")


def _describe(subject: Subject, hit: _Hit) -> str:
    what = f"{hit.of} (measured or not)" if hit.kind == "measured" else hit.of
    of = f" for {subject.labels[hit.label]}" if len(subject.labels) > 2 else ""
    return f"{what}{of}: AUROC {hit.estimate:.3f}, at least {hit.lower:.3f}"


def _inputs(subject: Subject) -> list[str]:
    match subject.study.input:
        case SeriesInput() as input_:
            return [variable.name for variable in (*input_.variables, *input_.statics)]
        case TableInput() as input_:
            return [column.name for column in input_.columns]
        case _:
            return []


def _bound(subject: Subject) -> Iterator[Finding]:
    if both := sorted(subject.source.bound & set(_inputs(subject))):
        yield Finding(
            "leakage: bound columns",
            "fail",
            f"the study's input has {listed(both)}, which the data binding reads as patient, label or split",
            "remove it from the study's input, or correct `[columns]` of the data binding",
        )


def _by_name(subject: Subject) -> Iterator[Finding]:
    named = [name for name in _inputs(subject) if _AFTERWARDS.search(name.replace("_", " "))]
    if named:
        yield Finding(
            "leakage: names",
            "warn",
            f"by their names, these may be known only afterwards, or be made from the label: {listed(named)}",
            "use nothing that is not known when the model will be asked",
            {"features": len(named)},
        )
