"""The one form in which every kind of hospital data reaches training: records of (patient, x, y, split)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.data.store import Images
from fedmodels.errors import DataError

TRAIN, TEST = 0, 1
UNLABELLED = -1


@dataclass(frozen=True, repr=False)
class Dataset:
    """n records of one site, already in the form that the study's input describes.

    patients: [n] strings, one patient may have several records; the unit of privacy and of every split.
    x: images [n, channels, height, width] in raw pixel units, uint8, int16, uint16 or float32 (`fitting.stored_type`);
       series float32 [n, steps, features]; text int32 [n, max_tokens] with 0 as padding; tables float32 [n, features].
       Many images lie in a file and are read when they are needed: `numpy.asarray(data.take(rows).x)` for some of them.
    lengths: [n] int64 valid steps or tokens (>= 1) of series and text; None for images and tables.
    y: [n] int64 index into the study's labels; UNLABELLED throughout when the binding names no labels, which only a
       caller that asked for it (`load(..., labelled=False)`) ever meets.
    split: [n] uint8, TRAIN or TEST; constant within a patient.
    notes: what a person should know about how the files were read, in sentences with counts and columns only; of the
       whole pool of records, also where these are a part of it. For the hospital's own people, never sent.
    """

    patients: npt.NDArray[np.str_]
    x: Images
    y: npt.NDArray[np.int64]
    split: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.patients)
        lengths = [len(self.x), len(self.y), len(self.split), count if self.lengths is None else len(self.lengths)]
        if any(length != count for length in lengths):
            raise DataError("the columns of the data set have different lengths", fix="report this adapter as a bug")
        seen: dict[str, int] = {}
        if any(seen.setdefault(p, s) != s for p, s in zip(self.patients.tolist(), self.split.tolist(), strict=True)):
            raise DataError(
                "a patient has records in both the training and the test split",
                fix="split by patient, never by row: give all records of a patient the same split",
            )

    def __len__(self) -> int:
        return len(self.patients)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} records, x {self.x.dtype}{list(self.x.shape[1:])})"

    def take(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> "Dataset":
        """The records at these row numbers, in this order."""
        index = np.asarray(rows, dtype=np.intp)
        lengths = None if self.lengths is None else self.lengths[index]
        return Dataset(self.patients[index], self.x[index], self.y[index], self.split[index], lengths, self.notes)

    def part(self, split: int) -> "Dataset":
        """The records of one split (TRAIN or TEST)."""
        return self.take(np.flatnonzero(self.split == split))

    def of_patients(self, names: frozenset[str]) -> "Dataset":
        """The records of these patients."""
        return self.take([row for row, patient in enumerate(self.patients.tolist()) if patient in names])

    def patients_in(self, split: int) -> int:
        """The number of patients of one split."""
        return len(np.unique(self.patients[self.split == split]))
