"""`check.html` and `rows.csv`: what a check found, for the hospital's own people. Both describe patients."""

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedmodels.data.checks.figures import by_class, marginal_figure
from fedmodels.data.checks.marginals import Marginal
from fedmodels.data.checks.run import Examination
from fedmodels.data.checks.subject import Subject
from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.errors import UsageError
from fedmodels.files import write_synced
from fedmodels.report.pages import render_page
from fedmodels.study import Study
from fedmodels.study_input import ImageInput, TableInput

_PROPERTIES = ("mean brightness", "contrast", "brightness of the border", "length of the text", "length of the series")
_PICTURED_GROUPS, _PICTURED, _PIXELS = 6, 4, 96


def private_folder(out: Path) -> None:
    """Make a folder that this user alone can enter; `UsageError` where it is there and others can."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if out.stat().st_mode & 0o077:
        raise UsageError(
            "other users of this machine can enter the folder",
            where=str(out),
            fix=f"name a new folder, or chmod 700 {out}: what is written there describes patients",
        )


def write_page(out: Path, study: Study, examined: Examination, *, pictures: bool) -> Path:
    """Write `check.html` into a private folder, readable for this user alone; returns its path.

    pictures: show some of the images that the findings are about.
    """
    path = out / "check.html"
    write_synced(path, render(study, examined, pictures=pictures).encode(), mode=0o600)
    return path


def render(study: Study, examined: Examination, *, pictures: bool) -> str:
    """The page as HTML: no script, no network, no patient, cell or file name; images only where asked for."""
    subject = examined.subject
    values = {
        "study": study,
        "findings": examined.findings,
        "counts": [] if subject is None else _counts(subject),
        "inputs": [_input(marginal, study) for marginal in examined.marginals],
        "properties": [] if subject is None else [*_properties(examined, subject)],
        "pictures": [*_pictures(examined)] if pictures else [],
    }
    return render_page("check.html", values, package="fedmodels.data.checks")


def write_rows(out: Path, examined: Examination) -> Path:
    """Write `rows.csv`: finding, number of the group within it, data row (1 = the first after any names of columns)."""
    path, text = out / "rows.csv", io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["finding", "group", "row"])
    if examined.subject is not None:
        rows = examined.subject.source.rows
        for finding in examined.findings:
            for number, group in enumerate(finding.groups, 1):
                writer.writerows([finding.name, number, row] for row in rows[group].tolist())
    write_synced(path, text.getvalue().encode(), mode=0o600)
    return path


def _counts(subject: Subject) -> list[dict[str, object]]:
    most = max(int(subject.patients.max()), 1)
    return [
        {
            "label": name,
            "parts": [
                (part, count, 100 * count / most)
                for part, count in (
                    ("training", int(subject.patients[TRAIN, label])), ("test", int(subject.patients[TEST, label])),
                )
            ],
        }
        for label, name in enumerate(subject.labels)
    ]  # fmt: skip


def _input(marginal: Marginal, study: Study) -> dict[str, object]:
    values = ""
    if marginal.quantiles is not None:
        width = marginal.high - marginal.low
        five, half, most = (f"{marginal.low + part * width:.4g}" for part in marginal.quantiles)
        values = f"{five} – {half} – {most}"
    elif isinstance(study.input, TableInput):
        column = next(column for column in study.input.columns if column.name == marginal.name)
        values = ", ".join(f"{v}: {n:,}" for v, n in zip(column.values, marginal.bins, strict=True))
    return {
        "name": marginal.name,
        "patients": marginal.patients,
        "figure": marginal_figure(marginal),
        "values": values,
        "range": f"{marginal.low:g} to {marginal.high:g}" if marginal.quantiles is not None else "",
        "outside": marginal.below + marginal.above + marginal.unmatched,
    }


def _properties(examined: Examination, subject: Subject) -> Iterator[dict[str, object]]:
    for predictor in examined.summary.predictors if examined.summary else ():
        if predictor.of in _PROPERTIES:
            yield {"name": predictor.of, "rows": by_class(predictor.values, subject.data.y, subject.labels)}


def _pictures(examined: Examination) -> Iterator[dict[str, object]]:
    subject = examined.subject
    if subject is None or not isinstance(subject.study.input, ImageInput):
        return
    input_ = subject.study.input
    for finding in examined.findings:
        # A group of many is a kind of image, not a few copies of one: then more of it is worth seeing.
        most = _PICTURED * (_PICTURED_GROUPS if len(finding.groups) == 1 else 1)
        groups = [_pictured(subject, group[:most], input_) for group in finding.groups[:_PICTURED_GROUPS]]
        if groups:
            yield {"name": finding.name, "groups": groups}


def _pictured(subject: Subject, records: npt.NDArray[np.int64], input_: ImageInput) -> list[tuple[str, int, str]]:
    """Image, data row and label of each of some records."""
    data = subject.data.take(records)
    sources = [_data_uri(image, input_) for image in np.asarray(data.x)]
    labels = [subject.labels[label] for label in data.y.tolist()]
    return [*zip(sources, subject.source.rows[records].tolist(), labels, strict=True)]


def _data_uri(image: npt.NDArray[np.generic], input_: ImageInput) -> str:
    scaled = (np.asarray(image, dtype=np.float32) - input_.low) / (input_.high - input_.low)
    pixels = (scaled.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture = picture.resize((_PIXELS, max(1, _PIXELS * picture.height // picture.width)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
