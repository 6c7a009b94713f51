"""Small files and studies that the tests of `fedmodels.data` share."""

import os
from pathlib import Path

import numpy as np
import pytest

from fedmodels.data.dataset import UNLABELLED, Dataset
from fedmodels.data.load import load
from fedmodels.errors import DataError
from fedmodels.study import About, Federation, Model, Privacy, Study, Training
from fedmodels.study_input import Input

REPOSITORY = Path(__file__).parents[2]
STUDIES = REPOSITORY / "simulations" / "studies"
LABELS = ("absent", "disease")


def study_of(input_: Input, labels: tuple[str, ...] = LABELS) -> Study:
    task = "binary" if len(labels) == 2 else "multiclass"
    return Study(About("test", task, labels), Model("any"), input_, Training(1), Privacy("none"), Federation(3))


def site(folder: Path, binding: str, **files: str | bytes) -> Path:
    """Write files (`__` stands for a dot) and a data binding; the path of the binding."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "data.toml").write_text(binding, encoding="utf-8")
    return folder / "data.toml"


def read(folder: Path, input_: Input, binding: str, **files: str | bytes) -> Dataset:
    return load(site(folder, binding, **files), study_of(input_))


def read_unlabelled(folder: Path, input_: Input, binding: str, **files: str | bytes) -> Dataset:
    """The records of a binding without labels, which only a caller that asks for such may have."""
    path = site(folder, binding, **files)
    with pytest.raises(DataError, match="the records have no labels") as caught:
        load(path, study_of(input_))
    assert "name the" in caught.value.fix or "name their" in caught.value.fix
    data = load(path, study_of(input_), labelled=False)
    assert (data.y == UNLABELLED).all()
    assert data.y.dtype == np.int64
    return data


def public_data(name: str) -> Path:
    """The folder of a public data set; skips the test where it is absent."""
    root = Path(os.environ.get("FEDMODELS_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"public data set {name} is not here: set FEDMODELS_DATA or run `fedmodels data fetch {name}`")
    return root / name
