"""`python -m simulations.auditing.digits FOLDER` writes the study that docs/audit.md has figures for.

Handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998, as in scikit-learn) for four hospitals, as ordinary files.
"""

import csv
from pathlib import Path
from typing import Annotated

import typer

from fedmodels.errors import UsageError
from fedmodels.settings import apply_settings, for_mode
from simulations.commands import check_new
from simulations.digits import digits_study

_HOSPITALS = 4
_BINDING = """\
kind = "table"
path = "digits.csv"

[columns]
patient = "row"
label = "digit"

[split]
test_fraction = 0.2
"""


def write_digits(folder: Path) -> None:
    """Write `study.toml`, `data.toml` and `digits.csv` into a new folder."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("scikit-learn is not installed", fix="pip install 'fedmodels[bench]'") from None
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = load_digits(return_X_y=True)
    with (folder / "digits.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"pixel{i}" for i in range(pixels.shape[1])), "digit"])
        rows.writerows([*pixel.astype(int).tolist(), label] for pixel, label in zip(pixels, labels, strict=True))
    (folder / "study.toml").write_text(
        apply_settings(digits_study(_HOSPITALS), for_mode("distributed")), encoding="utf-8"
    )
    (folder / "data.toml").write_text(_BINDING, encoding="utf-8")


def main(folder: Annotated[Path, typer.Argument(help="The folder to make.")]) -> None:
    """Write the digits study."""
    write_digits(folder)


if __name__ == "__main__":
    typer.run(main)
