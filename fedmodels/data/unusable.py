"""Images that cannot be used: a reason for each, counted over a whole data set, and one error that tells all of them.

Files are told by number, never by name: names of files often hold names of patients.
"""

from enum import Enum
from pathlib import Path

from fedmodels.errors import DataError

_SHOWN = 5


class Reason(Enum):
    """Why an image cannot be used (value[0]), and what to do about it (value[1])."""

    ABSENT = ("absent", "correct the column of files, or bring the files")
    EMPTY = ("empty (0 bytes)", "copy these files again")
    UNKNOWN = ("neither DICOM nor PNG, JPEG, TIFF or BMP", "leave these files out")
    DAMAGED = ("cut off or damaged", "copy or export these files again")
    NO_PIXELS = ("DICOM without pixels", "leave reports and plans out, for instance with `where.Modality`")
    NO_DECODER = ("DICOM in a compression that cannot be read here", "export them uncompressed or as JPEG 2000")
    PHOTOMETRIC = ("DICOM in an unknown kind of colour", "export them as MONOCHROME2 or RGB")
    FRAMES = ("DICOM with several frames", "say which to use with `dicom.frame`")
    NO_RULES = ("DICOM, and the binding has no `[dicom]`", "say what their pixels mean with `dicom.values`")
    NO_WINDOW = ("DICOM without a valid window", "give one for all with `dicom.window`")
    BURNED_IN = ("DICOM with text burned into the picture", "export them without, or leave them out")
    DEEP_COLOUR = ("in colour with more than 8 bits per channel", "export them as 8-bit PNG or JPEG")
    NOT_FINITE = ("with pixels that are not numbers (NaN or infinite)", "leave these images out")
    OUTSIDE = ("wholly outside the study's pixel range", "check the units: `dicom.values`, `input.low`, `input.high`")
    TOO_LARGE = ("larger than 134 million pixels or 100,000 frames", "export them smaller")


class Unusable(Exception):
    """Raised for one image; whoever reads many counts it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Tally:
    """What could not be used so far. place: what the numbers count, such as `data row`."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._found: dict[Reason, list[int]] = {}

    def add(self, reason: Reason, number: int) -> None:
        """number: of the image, from 1."""
        self._found.setdefault(reason, []).append(number)

    def check(self, total: int, where: Path) -> None:
        """`DataError` with each reason, how often it occurs and where first, most frequent first; nothing if none."""
        if not self._found:
            return
        ordered = sorted(self._found.items(), key=lambda item: -len(item[1]))
        counts = "; ".join(f"{len(numbers)} {reason.value[0]} ({self._first(numbers)})" for reason, numbers in ordered)
        raise DataError(
            f"{sum(map(len, self._found.values()))} of {total} images cannot be used: {counts}",
            where=str(where),
            fix="; ".join(reason.value[1] for reason, _ in ordered[:2]),
        )

    def _first(self, numbers: list[int]) -> str:
        shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
        return f"{self._place} {shown}"
