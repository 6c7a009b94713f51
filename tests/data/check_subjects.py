"""Records with and without planted faults, for the tests of `fedmodels.data.checks`."""

import numpy as np
from data_files import LABELS, study_of

from fedmodels.data.checks.finding import Finding
from fedmodels.data.checks.run import examine_records
from fedmodels.data.checks.source import Measured, Source
from fedmodels.data.checks.subject import Subject
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.study_input import Column, ImageInput, SeriesInput, TableInput, TextInput, Variable

NUMBERS = TableInput(tuple(Column(name, low=0, high=1) for name in "abcdefgh"))
SERIES = SeriesInput((Variable("HR", 40, 150), Variable("Lactate", 0.5, 10)), 24, statics=(Variable("Age", 20, 90),))
TEXT = TextInput(8192, 64)
IMAGE = ImageInput(32, 32)


def subject(input_, x, y=None, labels=LABELS, **changes) -> Subject:
    """Every record of a patient of its own, one in four of the test split, unless `changes` say otherwise."""
    count = len(x)
    given = {
        "patients": np.array([f"p{row}" for row in range(count)]),
        "y": np.arange(count) // 2 % len(labels) if y is None else np.asarray(y),
        "split": np.where(np.isin(np.arange(count) % 8, (0, 7)), TEST, TRAIN).astype(np.uint8),
        "lengths": None,
        "source": Source(np.arange(1, count + 1)),
    }
    given |= changes
    source = given.pop("source")
    return Subject(study_of(input_, labels), Dataset(x=x, **given), source)


def table(count=200, seed=0, columns=8, values=None, y=None, **changes) -> Subject:
    """Independent uniform numbers; values: of column `a`, in the unit interval, NaN where missing."""
    x = np.random.default_rng(seed).random((count, columns)).astype(np.float32)
    if values is not None:
        x[:, 0] = values
    full = np.zeros((count, 2 * columns), dtype=np.float32)
    full[:, ::2], full[:, 1::2] = np.where(np.isnan(x), 0.5, x), np.isnan(x)
    return subject(TableInput(NUMBERS.columns[:columns]), full, y, **changes)


def measured(low, high, values) -> Subject:
    """One column `glucose` of these raw values, and the source that holds them."""
    column = Column("glucose", low=low, high=high)
    values = np.asarray(values, dtype=np.float64)
    scaled = ((values.clip(low, high) - low) / (high - low)).astype(np.float32)
    source = Source(np.arange(1, len(values) + 1), values={"glucose": Measured(values, np.arange(len(values)))})
    return subject(TableInput((column,)), np.column_stack([scaled, np.zeros_like(scaled)]), source=source)


def texts(count=200, seed=0, length=40) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of Zipf's frequencies [count, 64] and lengths around `length`."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(length // 2, min(2 * length, 64), count)
    x = np.minimum(generator.zipf(1.3, (count, 64)), 8191).astype(np.int32)
    return np.where(np.arange(64) < lengths[:, None], x, 0).astype(np.int32), lengths


def series(count=100, seed=0) -> np.ndarray:
    """Series [count, 24, 8]: HR every hour, lactate now and then, age known."""
    generator = np.random.default_rng(seed)
    x = np.zeros((count, 24, 8), dtype=np.float32)
    for number, often in enumerate((1.0, 0.3)):
        x[..., 3 * number] = generator.random((count, 24))
        x[..., 3 * number + 1] = generator.random((count, 24)) < often
    x[..., 6] = generator.random((count, 1))
    return x


def pictures(count=150, seed=0, size=32) -> np.ndarray:
    """Smooth pictures with one thing in common, as X-rays have: uint8 [count, 1, size, size]."""
    generator = np.random.default_rng(seed)
    waves = np.cos(np.pi * np.arange(12)[:, None] * (np.arange(size) + 0.5) / size)
    strength = 1 / (1 + np.add.outer(np.arange(12), np.arange(12)))
    common = waves.T @ (generator.normal(size=(12, 12)) * strength) @ waves
    own = waves.T @ (generator.normal(size=(count, 12, 12)) * strength) @ waves
    grey = 2 * common + own
    scaled = 40 + 170 * (grey - grey.min()) / np.ptp(grey)
    return scaled.astype(np.uint8)[:, None]


def found(of: Subject) -> dict[str, Finding]:
    """Findings by name."""
    return {finding.name: finding for finding in examine_records(of).findings}


def bad(of: Subject) -> dict[str, str]:
    """Verdicts of the findings that are not ok."""
    return {name: finding.verdict for name, finding in found(of).items() if finding.verdict != "ok"}
