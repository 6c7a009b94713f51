"""The names of the features or channels in `Dataset.x`, in order: what models size themselves by and explanations name.

Free of torch and of I/O: everything follows from the study's public input section.
"""

from collections.abc import Sequence

from fedmodels.study_input import Column, ImageInput, Input, SeriesInput, TextInput, Variable


def feature_names(input_: Input) -> tuple[str, ...]:
    """Names along the feature axis of `Dataset.x`.

    Images: the channels. Series: value, mask, hours since the last measurement of each variable, then value and
    missing indicator of each static. Text: the one column of tokens. Tables: value and missing indicator of a number,
    one name per value and a missing indicator of a category.
    """
    match input_:
        case ImageInput():
            return ("grey",) if input_.channels == 1 else ("red", "green", "blue")
        case SeriesInput():
            return (*_series(input_.variables), *_statics(input_.statics))
        case TextInput():
            return ("token",)
        case _:
            return tuple(name for column in input_.columns for name in _column(column))


def feature_count(input_: Input) -> int:
    """Size of the feature axis: 3 per series variable, 2 per static, 2 per number, values + 1 per category."""
    return len(feature_names(input_))


def _series(variables: Sequence[Variable]) -> list[str]:
    parts = ("value", "measured", "hours since")
    return [f"{variable.name} ({part})" for variable in variables for part in parts]


def _statics(statics: Sequence[Variable]) -> list[str]:
    return [f"{static.name} ({part})" for static in statics for part in ("value", "missing")]


def _column(column: Column) -> list[str]:
    names = [f"{column.name} = {value}" for value in column.values] if column.kind == "category" else [column.name]
    return [*names, f"{column.name} (missing)"]
