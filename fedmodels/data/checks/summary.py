"""One pass over the records: what the checks need of each, small enough to keep for all of them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmodels.data.checks.images import IMAGE_STATISTICS, frequencies, image_statistics
from fedmodels.data.checks.sketches import Ragged, series_elements, signatures, text_elements
from fedmodels.data.checks.subject import Subject
from fedmodels.data.dataset import Dataset
from fedmodels.study_input import ImageInput, Input, SeriesInput, TableInput, TextInput

Kind = Literal["value", "measured"]


@dataclass(frozen=True, repr=False)
class Predictor:
    """One number per record that might give the label away, NaN where it has none.

    of: the study's column, or a property of the record; kind `measured`: whether there is a value at all (0 or 1).
    """

    of: str
    kind: Kind
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Summary:
    """digests: [n] of each record's x. predictors: of everything but the tokens of texts.

    sketches: [n, hashes] of texts and series; frequencies: [n, coefficients] of images; None for other inputs.
    """

    digests: npt.NDArray[np.uint64]
    predictors: tuple[Predictor, ...]
    sketches: npt.NDArray[np.uint32] | None = None
    frequencies: npt.NDArray[np.float32] | None = None


def elements_of(data: Dataset, input_: Input) -> Ragged:
    """The set that stands for each record of a text or a series; see `sketches`."""
    if isinstance(input_, SeriesInput):
        return series_elements(np.asarray(data.x), len(input_.variables))
    if data.lengths is None:
        raise ValueError("only texts and series have elements")
    return text_elements(np.asarray(data.x), data.lengths)


def summarise(subject: Subject) -> Summary:
    """The summary of all records, read block by block."""
    input_ = subject.study.input
    count, names = len(subject.data), [*_names(input_)]
    digests = np.empty(count, dtype=np.uint64)
    columns = np.empty((count, len(names)), dtype=np.float32)
    sketches, spectra = [], []
    for part, block in subject.blocks("reading"):
        digests[part] = _digests(block)
        columns[part] = _columns(block, input_)
        if isinstance(input_, ImageInput):
            spectra.append(frequencies(np.asarray(block.x)))
        elif not isinstance(input_, TableInput):
            sketches.append(signatures(elements_of(block, input_)))
    predictors = [Predictor(of, kind, columns[:, number]) for number, (of, kind) in enumerate(names)]
    return Summary(
        digests,
        tuple(predictors),
        np.concatenate(sketches) if sketches else None,
        np.concatenate(spectra) if spectra else None,
    )


def _digests(block: Dataset) -> npt.NDArray[np.uint64]:
    """64 bits of BLAKE2b: among 100,000 records a chance of 3e-10 that two different ones agree."""
    rows = np.ascontiguousarray(block.x).view(np.uint8).reshape(len(block), -1)
    return np.array([int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest()) for row in rows], np.uint64)


def _names(input_: Input) -> Iterator[tuple[str, Kind]]:
    """Names of the columns that `_columns` makes, in order."""
    match input_:
        case ImageInput():
            for name in IMAGE_STATISTICS:
                yield name, "value"
        case TextInput():
            yield "length of the text", "value"
        case SeriesInput():
            for summary in ("last value", "mean"):
                for variable in input_.variables:
                    yield f"{variable.name} ({summary})", "value"
            for variable in input_.variables:
                yield variable.name, "measured"
            for static in input_.statics:
                yield static.name, "value"
            for static in input_.statics:
                yield static.name, "measured"
            yield "length of the series", "value"
        case _:
            for column in input_.columns:
                for value in column.values or ("",):
                    yield f"{column.name} = {value}" if value else column.name, "value"
                yield column.name, "measured"


def _columns(block: Dataset, input_: Input) -> npt.NDArray[np.float32]:
    match input_:
        case ImageInput():
            return image_statistics(np.asarray(block.x))
        case TextInput():
            return np.asarray(block.lengths, dtype=np.float32)[:, None]
        case SeriesInput():
            return _series_columns(block, len(input_.variables), len(input_.statics))
        case _:
            return _table_columns(np.asarray(block.x, dtype=np.float32), input_)


def _series_columns(block: Dataset, variables: int, statics: int) -> npt.NDArray[np.float32]:
    x = np.asarray(block.x, dtype=np.float32)
    cells = x[:, :, : 3 * variables].reshape(len(x), x.shape[1], variables, 3)
    value, mask = cells[..., 0], cells[..., 1]
    often = mask.sum(axis=1)
    known = x[:, 0, 3 * variables :].reshape(len(x), statics, 2)
    with np.errstate(invalid="ignore"):
        mean = (value * mask).sum(axis=1) / often
    ever = often > 0
    last = np.where(ever, value[:, -1], np.nan)
    static = np.where(known[..., 1] > 0, np.nan, known[..., 0])
    length = np.asarray(block.lengths, dtype=np.float32)[:, None]
    return np.concatenate([last, mean, ever, static, known[..., 1] == 0, length], axis=1).astype(np.float32)


def _table_columns(x: npt.NDArray[np.float32], input_: TableInput) -> npt.NDArray[np.float32]:
    """As the study's form, but not known is NaN, and the last column of each says that there is a value."""
    made, start = [], 0
    for column in input_.columns:
        width = max(len(column.values), 1)
        absent = x[:, start + width] > 0
        made.append(np.where(absent[:, None], np.nan, x[:, start : start + width]))
        made.append(~absent[:, None])
        start += width + 1
    return np.concatenate(made, axis=1).astype(np.float32)
