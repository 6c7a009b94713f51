"""`data.toml`: where a hospital's records lie and which columns mean what. The same file format everywhere.

Relative paths are relative to the binding file. A leading `$FEDMODELS_DATA` stands for the folder of public data sets:
the environment variable, else the first of `data` and `../shared/data` that exists below the working directory or the
repository. No other variable is expanded, so that a binding means the same for every user of a machine.

Files of rows are CSV, TSV, Parquet or lines of JSON, by the end of their names (see `rowfile`). Bindings of images have
a `cache`: the folder where many images are kept as the study asks for them (`store`), by default beside the binding.
Simulated hospitals that share a pool share its cache.

A binding that names no labels is of unlabelled records, new patients of whom a model shall say something. It needs no
`[split]` either: without one every record is a test record. A binding that names labels needs its split.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from fedmodels import strict_toml
from fedmodels.data.binding_kinds import DataBinding, Split
from fedmodels.errors import DataError, FileError
from fedmodels.files import read_text

_VARIABLE = "$FEDMODELS_DATA"


def parse_binding(text: str, source: str = "data.toml") -> DataBinding:
    """The binding in a TOML text; `FileError` names file, line, key and expectation."""
    return strict_toml.decode(text, DataBinding, source)  # type: ignore[arg-type]


def read_binding(path: Path) -> DataBinding:
    """The binding in a file, all its paths made absolute."""
    binding = parse_binding(read_text(path), str(path))
    found = {key: str(resolve(value, path)) for key, value in _paths(binding)}
    if (split := getattr(binding, "split", None)) is not None and split.file:
        found["split"] = msgspec.structs.replace(split, file=str(resolve(split.file, path)))
    return msgspec.structs.replace(binding, **found)


def sources(binding: DataBinding) -> list[Path]:
    """Every file or folder that the records are read from; not the list of patients, and no cache."""
    paths = [Path(value) for key, value in _paths(binding) if key not in ("patients", "cache")]
    split: Split | None = getattr(binding, "split", None)
    return [*paths, Path(split.file)] if split is not None and split.file else paths


def resolve(value: str, binding: Path) -> Path:
    """The absolute path that `value` means in the file `binding`."""
    parts = Path(value).parts
    if parts and parts[0] == _VARIABLE:
        return data_root(os.environ, Path.cwd()).joinpath(*parts[1:]).absolute()
    if value.startswith("$"):
        raise FileError(
            "a path starts with a variable that bindings do not know",
            where=str(binding),
            fix=f"only {_VARIABLE} is expanded; write the path out",
        )
    return (binding.parent / value).absolute()


def data_root(environment: Mapping[str, str], working_directory: Path) -> Path:
    """The folder that `$FEDMODELS_DATA` stands for; `DataError` says how to set it when there is none."""
    if chosen := environment.get(_VARIABLE[1:]):
        return Path(chosen)
    for root in (working_directory, Path(__file__).parents[2]):
        for candidate in (root / "data", root.parent / "shared" / "data"):
            if candidate.is_dir():
                return candidate
    raise DataError(
        f"{_VARIABLE} is not set, and there is no folder `data` here",
        where=str(working_directory),
        fix=f"run `fedmodels data fetch`, or set {_VARIABLE[1:]} to the folder that holds the public data sets",
    )


def _paths(binding: DataBinding) -> Iterator[tuple[str, str]]:
    for key in ("path", "index", "outcomes", "admissions", "patients", "cache"):
        if value := getattr(binding, key, ""):
            yield key, value
