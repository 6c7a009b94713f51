"""`[input]` of a study: what a record is, for each modality, with the public ranges that it is scaled by."""

import math
from typing import Annotated, Literal

from msgspec import Meta

from fedmodels.typed import PositiveFloat, Strict


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("`low` and `high` must be finite numbers")
    if not low < high:
        raise ValueError("`low` must be below `high`")


class Variable(Strict, frozen=True):
    """A measured quantity with its public plausible range [low, high] in `unit`; values outside are clipped.

    unit: hospitals whose data are in another one say so in their bindings, and are converted; empty = as agreed.
    """

    name: str
    low: float
    high: float
    unit: str = ""

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)


class Column(Strict, frozen=True):
    """A column of a table: a number with a public range in `unit` (as of `Variable`), or a category with its values."""

    name: str
    kind: Literal["number", "category"] = "number"
    low: float = 0.0
    high: float = 1.0
    values: tuple[str, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind == "number":
            _check_range(self.low, self.high)
        elif self.unit:
            raise ValueError("a category has no `unit`")
        elif len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ValueError("a category needs at least two different `values`")


class ImageInput(Strict, frozen=True, tag="image", tag_field="modality"):
    """Images of height x width pixels; `low` and `high` are the public pixel range, scaled to [-1, 1]."""

    height: Annotated[int, Meta(ge=8, le=4096)]
    width: Annotated[int, Meta(ge=8, le=4096)]
    channels: Literal[1, 3] = 1
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)


class SeriesInput(Strict, frozen=True, tag="series", tag_field="modality"):
    """Measurements on a grid of `steps` intervals of `step_minutes`; `statics` are known from the start."""

    variables: Annotated[tuple[Variable, ...], Meta(min_length=1)]
    steps: Annotated[int, Meta(ge=1, le=100_000)]
    step_minutes: PositiveFloat = 60.0
    statics: tuple[Variable, ...] = ()

    def __post_init__(self) -> None:
        names = [variable.name for variable in (*self.variables, *self.statics)]
        if len(set(names)) != len(names):
            raise ValueError("every variable and static needs a name of its own")


class TextInput(Strict, frozen=True, tag="text", tag_field="modality"):
    """Text as at most `max_tokens` public hash buckets out of `vocabulary` (bucket 0 is padding).

    keep: of a longer text the first tokens (`head`), the last (`tail`), or as many from either end (`both`).
    mask_identifiers: names, numbers and e-mail addresses in the forms of `data.identifiers` are replaced first.
    """

    vocabulary: Annotated[int, Meta(ge=16, le=1 << 22)] = 8192
    max_tokens: Annotated[int, Meta(ge=1, le=100_000)] = 128
    keep: Literal["head", "tail", "both"] = "head"
    mask_identifiers: bool = True


class TableInput(Strict, frozen=True, tag="table", tag_field="modality"):
    """One row per record, columns in the order given here."""

    columns: Annotated[tuple[Column, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError("every column needs a name of its own")


Input = ImageInput | SeriesInput | TextInput | TableInput
