"""The evaluation as a page shows it: tables of metrics and labels, the confusion matrix, curves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from fedmodels.evaluation import scores
from fedmodels.evaluation.counts import Layout
from fedmodels.evaluation.noise import smoothed
from fedmodels.evaluation.scores import Floats
from fedmodels.evaluation.summary import Summary
from fedmodels.packing import evaluation_layout, evaluation_noise
from fedmodels.report.curves import (
    Group,
    calibration_chart,
    calibration_groups,
    precision_recall_chart,
    roc_chart,
)
from fedmodels.report.record import Counts, Record
from fedmodels.study import Study

PER_HOSPITAL = {
    "n": "Records", "accuracy": "Accuracy", "auroc": "AUROC", "auprc": "AUPRC", "macro_f1": "Macro F1", "ece": "ECE",
    "loss": "Log loss",
}  # fmt: skip
_SHADE = 34.0  # per cent of the accent colour in the darkest cell: text on it stays readable


@dataclass(frozen=True)
class Label:
    """One label of several, against the rest; shares are None where they are undefined."""

    name: str
    records: float
    prevalence: float
    shares: tuple[float | None, ...]


@dataclass(frozen=True)
class Evaluation:
    """matrix: (true label, its cells: records, share of the row, per cent of shading). positive: the label that
    binary metrics are about; empty of several."""

    summary: Summary
    matrix: list[tuple[str, list[tuple[float, float, float]]]]
    labels: list[Label]
    prevalence: float
    positive: str
    charts: list[tuple[str, Markup]]
    groups: list[Group]


def metric_names(study: Study) -> dict[str, str]:
    """What each metric is called, in reading order."""
    binary = len(study.study.labels) == 2
    names = {
        "n": "Test records counted",
        "auroc": "AUROC: area under the ROC curve",
        "auprc": "AUPRC: average precision",
        "sensitivity_at_specificity": f"Sensitivity at specificity {study.evaluation.specificity:g}",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "macro_f1": "Macro F1",
        "sensitivity": "Sensitivity at the threshold",
        "specificity": "Specificity at the threshold",
        "ece": "ECE: expected calibration error (lower is better)",
        "ece_calibrated": "ECE after temperature",
        "loss": "Log loss (lower is better)",
        "loss_calibrated": "Log loss after temperature",
    }
    return {name: text for name, text in names.items() if binary or name not in ("sensitivity", "specificity")}


def evaluation_of(record: Record) -> Evaluation | None:
    """None without an evaluation."""
    summary, counts = record.result.summary, record.counts
    if summary is None or counts is None:
        return None
    layout = evaluation_layout(record.study)
    point = summary.operating_point
    heads, confusion = layout.split(np.array(counts.counts, np.int64), point.cut if point else None)
    smooth, names = smoothed(heads), record.study.study.labels
    charts, groups = _charts(record.study, counts, summary, layout, heads)
    return Evaluation(
        summary=summary,
        matrix=_matrix(confusion, names),
        labels=_labels(smooth, confusion, names) if len(heads) > 1 else [],
        prevalence=float(np.mean([head[1].sum() / max(float(head.sum()), 1.0) for head in smooth])),
        positive=names[1] if len(heads) == 1 else "",
        charts=charts,
        groups=groups,
    )


def _charts(
    study: Study, counts: Counts, summary: Summary, layout: Layout, heads: Floats
) -> tuple[list[tuple[str, Markup]], list[Group]]:
    smooth, several = smoothed(heads), len(heads) > 1
    drawn = [head for head in smooth if (head.sum(1) >= 1).all()]
    charts: list[tuple[str, Markup]] = []
    if drawn:
        told = summary.metrics
        threshold = (1 - told["specificity"], told["sensitivity"]) if "specificity" in told and not several else None
        whom = "each label against the rest, and the mean" if several else f"“{study.study.labels[1]}”"
        found = np.array(drawn)
        charts.append((f"ROC curve: {whom}", roc_chart(found, "ROC curve", threshold)))
        charts.append((f"Precision and recall: {whom}", precision_recall_chart(found, "Precision and recall")))
    variance = evaluation_noise(study, counts.hospitals).variance
    temperature = summary.calibration.temperature
    before = calibration_groups(heads, layout, 1.0, variance)
    after = calibration_groups(heads, layout, temperature, variance) if temperature != 1.0 else []
    if before and (after or temperature == 1.0):
        whom = "all labels, each against the rest" if several else f"“{study.study.labels[1]}”"
        charts.append((f"Calibration: {whom}", calibration_chart(before, after, "Calibration")))
    return charts, after or before


def _matrix(confusion: Floats, names: tuple[str, ...]) -> list[tuple[str, list[tuple[float, float, float]]]]:
    rows = []
    for name, row in zip(names, confusion, strict=True):
        shares = np.clip(row / max(float(row.sum()), 1.0), 0.0, 1.0)
        rows.append((name, [(float(n), float(s), _SHADE * float(s)) for n, s in zip(row, shares, strict=True)]))
    return rows


def _labels(heads: Floats, confusion: Floats, names: tuple[str, ...]) -> list[Label]:
    found = []
    for k, name in enumerate(names):
        records, called, right = confusion[k].sum(), confusion[:, k].sum(), confusion[k, k]
        shares: list[Any] = [
            right / records if records >= 1 else None,
            right / called if called >= 1 else None,
            2 * right / (records + called) if records + called >= 1 else None,
            scores.auroc(heads[k]),
            scores.average_precision(heads[k]),
        ]
        cut = tuple(None if share is None else min(1.0, max(0.0, float(share))) for share in shares)
        found.append(Label(name, float(records), float(records / max(float(confusion.sum()), 1.0)), cut))
    return found
