"""What a hospital keeps of an evaluation for itself: how good the model is on its own test patients.

Exact, so it stays here: a file for this user alone (0600) in the site's folder `results`, which nothing that leaves is
made from.
"""

from pathlib import Path

import msgspec

from fedmodels.errors import FileError
from fedmodels.files import write_synced


class OwnResult(msgspec.Struct, frozen=True):
    """One record per patient. metrics: exact, at a threshold of 0.5; counts: in the study's layout, without noise."""

    study_hash: str
    run: str
    time: str
    metrics: dict[str, float]
    counts: tuple[int, ...]


def keep(directory: Path, result: OwnResult) -> None:
    """Write a result into a site directory, over one of the same run."""
    folder = directory / "results"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_synced(folder / f"{result.run}.json", msgspec.json.encode(result) + b"\n", mode=0o600)


def own_results_of(directory: Path) -> list[OwnResult]:
    """All results that a site directory holds, the oldest first."""
    found = []
    for path in (directory / "results").glob("*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=OwnResult))
        except msgspec.DecodeError as error:
            raise FileError(f"is not a result: {error}", where=str(path), fix="remove or restore it") from None
    return sorted(found, key=lambda result: (result.time, result.run))
