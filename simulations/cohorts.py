"""Made-up patients of made-up hospitals, written as ordinary files with a data binding each.

They go through the same adapters as real data. The classes differ in something that no linear model of the features
can see (an orientation, an order of events, what a negation refers to, an interaction), so that a study on them shows
whether training works. Every hospital has its own shift, as real ones do: prevalence, and scanner (images), sampling
density (series), language (text) or missing values (tables). The same seed gives the same files.
"""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmodels import strict_toml
from fedmodels.errors import UsageError
from fedmodels.files import read_text
from fedmodels.study_input import Column, ImageInput, Input, SeriesInput, TableInput, TextInput, Variable
from fedmodels.typed import Strict

Kind = Literal["image", "series", "text", "table"]
Floats = npt.NDArray[np.float64]

LABELS = ("healthy", "diseased")
_NOTICE = "SYNTHETIC: these patients do not exist. Made by fedmodels to show how a study works; no medical meaning."
_TEST_FRACTION = 0.2
TABLE_INPUT = """\
[input]
modality = "table"
columns = [
    { name = "age", low = 0, high = 120 },
    { name = "marker", low = 0, high = 100 },
    { name = "pressure", low = 60, high = 220 },
    { name = "smoker", kind = "category", values = ["never", "former", "current"] },
]
"""
"""The input section of a study of synthetic tables."""


class Cohort(Strict, frozen=True):
    """`cohort.toml`: what to make for a synthetic study. patients_per_hospital includes the test patients."""

    kind: Kind
    patients_per_hospital: Annotated[int, Meta(ge=2, le=1_000_000)]
    seed: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True)
class _Hospital:
    """One hospital's patients to be: names, class of each, and where and with which generator to write them."""

    folder: Path
    names: tuple[str, ...]
    y: npt.NDArray[np.int64]
    draw: np.random.Generator


def read_cohort(path: Path) -> Cohort:
    """The cohort in a TOML file; `FileError` names file, line, key and expectation."""
    return strict_toml.decode(read_text(path), Cohort, str(path))


def cohort_input(kind: Kind) -> Input:
    """The `[input]` section that a study on a cohort of this kind needs; its labels are `LABELS`."""
    return _INPUTS[kind]


def write_cohort(kind: Kind, directory: Path, hospitals: int, patients: int, seed: int) -> list[Path]:
    """Write `hospitals` folders `hospital-01`, ... of `patients` patients each; returns their data bindings, in order.

    `UsageError` when `directory` is not empty: nobody's files are ever overwritten.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError("the folder is not empty", where=str(directory), fix="name a new folder for the cohort")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.txt").write_text(f"{_NOTICE}\nkind {kind}, seed {seed}\n", encoding="utf-8")
    width = max(2, len(str(hospitals)))
    bindings = []
    for number in range(1, hospitals + 1):
        draw = np.random.default_rng([seed, number])
        prevalence = draw.uniform(0.35, 0.65)
        names = tuple(f"h{number:0{width}}-{patient:06}" for patient in range(patients))
        folder = directory / f"hospital-{number:0{width}}"
        folder.mkdir()
        y = (draw.random(patients) < prevalence).astype(np.int64)
        binding = folder / "data.toml"
        body = _WRITERS[kind](_Hospital(folder, names, y, draw))
        binding.write_text(f"# {_NOTICE}\n{body.strip()}\n\n{_LABEL_LINES}", encoding="utf-8")
        bindings.append(binding)
    return bindings


# --- images: stripes inside a blob lean left or right; place, phase (so also sign) and contrast are random ----------


def _write_images(hospital: _Hospital) -> str:
    draw, count = hospital.draw, len(hospital.y)
    gain, offset, noise = draw.uniform(0.8, 1.2), draw.uniform(-20, 20), draw.uniform(12, 20)
    clean = 110 + np.stack([_stripes(int(label), draw) for label in hospital.y])
    pixels = gain * clean + offset + noise * draw.standard_normal(clean.shape)
    images = pixels.round().clip(0, 255).astype(np.uint8)
    first_test = count - int(count * _TEST_FRACTION)
    parts = {"train": slice(first_test), "test": slice(first_test, None)}
    arrays = {
        f"{part}_{name}": values[rows]
        for part, rows in parts.items()
        for name, values in (("images", images), ("labels", hospital.y), ("patients", np.array(hospital.names)))
    }
    np.savez_compressed(hospital.folder / "images.npz", allow_pickle=False, **arrays)
    return """
kind = "image-npz"
path = "images.npz"
train = ["train_images", "train_labels", "train_patients"]
test = ["test_images", "test_labels", "test_patients"]
"""


def _stripes(label: int, draw: np.random.Generator) -> Floats:
    angle = np.deg2rad(draw.normal(45 if label else 135, 20))
    centre, phase, contrast = draw.uniform(8, 20, 2), draw.uniform(0, 2 * np.pi), draw.uniform(15, 45)
    rows, columns = np.mgrid[:28, :28].astype(np.float64)
    down, right = rows - centre[0], columns - centre[1]
    wave = np.cos(2 * np.pi * (right * np.cos(angle) + down * np.sin(angle)) / 5 + phase)
    blob: Floats = contrast * wave * np.exp(-(down**2 + right**2) / (2 * 4.0**2))
    return blob


# --- series: blood pressure moves some hours before heart rate (diseased) or after; up or down is random ------------

_STEPS = 24


def _write_series(hospital: _Hospital) -> str:
    draw = hospital.draw
    density = draw.uniform(0.7, 0.95)
    rows: list[Sequence[object]] = []
    for name, label in zip(hospital.names, hospital.y.tolist(), strict=True):
        first = draw.uniform(2, _STEPS - 8)
        second = first + draw.uniform(3, 6)
        pressure, heart = (first, second) if label else (second, first)
        direction = draw.choice([-1, 1])
        for variable, start, usual in (("heart_rate", heart, 90.0), ("blood_pressure", pressure, 120.0)):
            change = direction * draw.uniform(30, 45)
            hours = np.flatnonzero(draw.random(_STEPS) < density).astype(np.float64) + draw.random()
            level = usual + draw.normal(0, 4) + change * _deflection(hours - start) + draw.normal(0, 3, len(hours))
            rows.extend((name, round(60 * h), variable, f"{v:.1f}") for h, v in zip(hours, level, strict=True))
        rows.append((name, 0, "age", int(draw.integers(18, 90))))
    _write_csv(hospital.folder / "measurements.csv", ("patient", "minutes", "variable", "value"), rows)
    _write_csv(hospital.folder / "outcomes.csv", ("patient", "label"), zip(hospital.names, hospital.y, strict=True))
    return f"""
kind = "series-long"
path = "measurements.csv"
outcomes = "outcomes.csv"

[columns]
time = "minutes"

[split]
test_fraction = {_TEST_FRACTION}
"""


def _deflection(hours: Floats) -> Floats:
    """Fraction of the full change, `hours` after its start: at once, then fading over a few hours."""
    return np.exp(-np.maximum(hours, 0) / 4) * (hours >= 0)


# --- text: the same words either way; only what the negation refers to tells cough (diseased) from fever ------------


@dataclass(frozen=True)
class _Language:
    """What a note is put together from; `{}` stands for a symptom with its degree."""

    cough: str
    fever: str
    affirm: tuple[str, ...]
    negate: tuple[str, ...]
    degrees: tuple[str, ...]
    joins: tuple[str, ...]
    others: tuple[str, ...]
    stop: str


_ENGLISH = _Language(
    cough="cough",
    fever="fever",
    affirm=("reports {}", "has {}", "complains of {}"),
    negate=("no {}", "denies {}", "is free of {}"),
    degrees=("", "much ", "any recent ", "severe ", "persistent "),
    joins=(" but ", "; ", ", and "),
    others=("patient seen in clinic", "came on foot", "sleeps well", "lives with family", "smoked for years"),
    stop=". ",
)
_CHINESE = _Language(
    cough="咳嗽",
    fever="发热",
    affirm=("自述有{}", "存在{}", "出现{}"),
    negate=("没有{}", "否认{}", "未见{}"),
    degrees=("", "明显的", "近期的", "严重的", "持续的"),
    joins=("，但", "；", "，同时"),
    others=("门诊就诊", "步行前来", "睡眠良好", "与家人同住", "吸烟多年"),
    stop="。",
)


def _write_texts(hospital: _Hospital) -> str:
    draw = hospital.draw
    chinese = draw.uniform(0.1, 0.9)
    rows = [
        (name, label, _note(int(label), _CHINESE if draw.random() < chinese else _ENGLISH, draw))
        for name, label in zip(hospital.names, hospital.y, strict=True)
    ]
    _write_csv(hospital.folder / "notes.csv", ("patient", "label", "text"), rows)
    return f"""
kind = "text"
path = "notes.csv"

[columns]
patient = "patient"
label = "label"
text = ["text"]

[split]
test_fraction = {_TEST_FRACTION}
"""


def _note(label: int, language: _Language, draw: np.random.Generator) -> str:
    def one_of(choices: tuple[str, ...]) -> str:
        return choices[draw.integers(len(choices))]

    present, absent = (language.cough, language.fever) if label else (language.fever, language.cough)
    clauses = [
        one_of(language.affirm).format(one_of(language.degrees) + present),
        one_of(language.negate).format(one_of(language.degrees) + absent),
    ]
    sentence = one_of(language.joins).join(clauses[:: draw.choice([-1, 1])])
    others = [one_of(language.others), one_of(language.others)]
    place = int(draw.integers(3))
    return language.stop.join([*others[:place], sentence, *others[place:]]) + language.stop.strip()


# --- tables: high marker is bad in the old and good in the young, so neither counts for anything alone --------------


def _write_table(hospital: _Hospital) -> str:
    draw = hospital.draw
    unknown = draw.uniform(0.0, 0.1)
    rows = []
    for name, label in zip(hospital.names, hospital.y, strict=True):
        old = draw.random() < 0.5
        age = draw.uniform(55, 90) if old else draw.uniform(20, 55)
        marker = draw.normal(70 if old == bool(label) else 30, 12)
        pressure = draw.normal(135 if label else 130, 15)
        cells = [f"{age:.0f}", f"{marker:.1f}", f"{pressure:.0f}", str(draw.choice(["never", "former", "current"]))]
        rows.append((name, label, *("" if draw.random() < unknown else cell for cell in cells)))
    _write_csv(hospital.folder / "table.csv", ("patient", "label", "age", "marker", "pressure", "smoker"), rows)
    return f"""
kind = "table"
path = "table.csv"

[columns]
patient = "patient"
label = "label"

[split]
test_fraction = {_TEST_FRACTION}
"""


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


_LABEL_LINES = "[labels]\n" + "".join(f'{code} = "{label}"\n' for code, label in enumerate(LABELS))
_WRITERS: dict[Kind, Callable[[_Hospital], str]] = {
    "image": _write_images,
    "series": _write_series,
    "text": _write_texts,
    "table": _write_table,
}
_INPUTS: dict[Kind, Input] = {
    "image": ImageInput(height=28, width=28),
    "series": SeriesInput(
        variables=(Variable("heart_rate", 40, 140), Variable("blood_pressure", 70, 170)),
        statics=(Variable("age", 0, 120),),
        steps=_STEPS,
    ),
    "text": TextInput(vocabulary=1024, max_tokens=48),
    "table": TableInput(
        columns=(
            Column("age", low=0, high=120),
            Column("marker", low=0, high=100),
            Column("pressure", low=60, high=220),
            Column("smoker", kind="category", values=("never", "former", "current")),
        )
    ),
}
