"""Bring a public data set from its publisher: streamed, checked, resumable. Nothing unchecked ever gets its name.

A download goes to `NAME.part` and is renamed only when its checksum is the catalogue's. An interrupted one goes on
where it stopped. No hospital needs any of this; it is for simulations and for the people who check results.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fedmodels.data.catalogue import CATALOGUE, DataSet, RemoteFile, data_set
from fedmodels.errors import DataError, UsageError

Progress = Callable[[str, int, int | None], None]
"""Called with file name, bytes so far and bytes in all (None where the server does not say)."""

_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 60.0


def fetch(name: str, directory: Path, progress: Progress) -> list[Path]:
    """All files of the data set `name` in `directory/name`; those already there and right are not brought again."""
    chosen = data_set(name)
    if chosen is None:
        known = ", ".join(entry.name for entry in CATALOGUE)
        raise UsageError(f"no public data set is called `{name}`", fix=f"choose one of: {known}")
    return fetch_files(chosen, directory / chosen.name, progress)


def fetch_files(chosen: DataSet, folder: Path, progress: Progress) -> list[Path]:
    """The data set's files in `folder`. `DataError` on a broken connection or a wrong checksum, with a way by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_bring(file, folder, progress) for file in chosen.files]
    return [*paths, chosen.derive(folder)] if chosen.derive else paths


def by_hand(file: RemoteFile, folder: Path) -> str:
    """What to do where the network cannot be reached: URL, file name and checksum."""
    return (
        f"on a machine with access, download {file.url}, save it as {folder / file.name}, and compare its "
        f"{file.algorithm.upper()} with {file.checksum}"
    )


def _bring(file: RemoteFile, folder: Path, progress: Progress) -> Path:
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists():
        if _checksum(path, file.algorithm) == file.checksum:
            return path
        raise DataError(
            f"is not the original: its {file.algorithm.upper()} is not the catalogue's",
            where=str(path),
            fix=f"move it away and fetch again, or {by_hand(file, folder)}",
        )
    try:
        _download(file, part, progress)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else type(error).__name__
        raise DataError(
            f"the download stopped: {reason}",
            where=file.url,
            fix=f"run the command again, it goes on where it stopped; or {by_hand(file, folder)}",
        ) from None
    if _checksum(part, file.algorithm) != file.checksum:
        part.unlink()
        raise DataError(
            f"what the server sent is not the original: its {file.algorithm.upper()} is not the catalogue's; "
            "it was deleted",
            where=file.url,
            fix=f"try again later or on another network; or {by_hand(file, folder)}",
        )
    part.replace(path)
    return path


def _download(file: RemoteFile, part: Path, progress: Progress) -> None:
    """Append to `part` what is still missing; start over where the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "fedmodels"} | _range(have))  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is missing: the checksum decides whether it is the right content
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumed else "wb") as target:
            while chunk := response.read(_CHUNK):
                target.write(chunk)
                have += len(chunk)
                progress(file.name, have, total)
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _range(have: int) -> dict[str, str]:
    return {"Range": f"bytes={have}-"} if have else {}


def _checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
