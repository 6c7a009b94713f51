"""FLamby's split of the UCI heart disease data, computed again from the originals so that results compare.

Source: Ogier du Terrail et al., FLamby, NeurIPS 2022, `fed_heart_disease/dataset.py`: per hospital, drop the columns
slope, ca and thal, then rows with a missing value, then split 66 : 34 with seed 43, stratified by the label where both
labels have at least three patients.
"""

import csv
import io
from pathlib import Path

from fedmodels.data.csvfile import read_csv
from fedmodels.errors import UsageError
from fedmodels.files import write_synced

SITES = ("cleveland", "hungarian", "switzerland", "va")
_DROPPED = ("slope", "ca", "thal")
_COLUMNS = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"),
    *_DROPPED,
    "num",
)


def write_split(folder: Path) -> Path:
    """Write `flamby_split.csv` (site, row_in_file from 0, set) beside the four `processed.*.data` files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["site", "row_in_file", "set"])
    for site in SITES:
        writer.writerows([site, row, word] for row, word in _site(folder / f"processed.{site}.data"))
    path = folder / "flamby_split.csv"
    write_synced(path, text.getvalue().encode())
    return path


def _site(path: Path) -> list[tuple[int, str]]:
    """(row, "train" or "test") of every complete row of one hospital."""
    try:
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise UsageError(
            "scikit-learn is needed to compute FLamby's split",
            where=str(path.parent),
            fix="install fedmodels with the extra `bench`, then run the command again",
        ) from None
    rows = read_csv(path, "utf-8", _COLUMNS).drop(*_DROPPED).rows()
    complete = [number for number, row in enumerate(rows) if "?" not in row]
    diseased = [float(rows[number][-1]) > 0 for number in complete]
    stratify = diseased if min(sum(diseased), len(diseased) - sum(diseased)) > 2 else None
    _, test = train_test_split(complete, train_size=0.66, test_size=1 - 0.66, random_state=43, stratify=stratify)
    return [(number, "test" if number in set(test) else "train") for number in complete]
