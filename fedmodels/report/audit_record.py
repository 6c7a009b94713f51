"""What the commands of `fedmodels audit` left in one folder, found by name and typed: the input of the audit's page.

Each command writes into a folder of its own; all of these may lie in one. Unknown keys are ignored, missing ones and
files of two audits of one kind are refused.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from fedmodels.errors import FileError, UsageError
from fedmodels.files import read_text

COMMANDS = {
    "audit.json": "fedmodels audit run STUDY --out FOLDER/run",
    "colluders.json": "fedmodels audit colluders STUDY -c 3 --out FOLDER/colluders",
    "self-test.json": "fedmodels audit self-test --out FOLDER/self-test",
    "transcript.json": "fedmodels audit transcript SITE --out FOLDER/transcript-1",
    "view.json": "fedmodels audit view STUDY --data data.toml --out FOLDER/view",
    "membership.json": "fedmodels audit membership RUN --data data.toml --out FOLDER/membership",
}
"""File -> the command that writes it."""

_DEEP = 2  # folders below the one that is named; hospitals' own are further down
T = TypeVar("T", bound=msgspec.Struct)


class Finding(msgspec.Struct, frozen=True):
    """One check. said: what it measured; probability: of that in a correct implementation, at most."""

    check: str
    said: str
    flagged: bool
    probability: float | None = None


class Bound(msgspec.Struct, frozen=True):
    """A lower bound on epsilon."""

    name: str
    epsilon: float
    confidence: float
    assumption: str


class Point(msgspec.Struct, frozen=True):
    """The bounds after some steps, and what the ledgers claim then."""

    steps: int
    claimed: float
    bounds: tuple[Bound, ...]


class Judged(msgspec.Struct, frozen=True):
    """The verdict of one audit."""

    conclusion: str
    said: str


class Audit(msgspec.Struct, frozen=True):
    """`audit.json`."""

    study: str
    study_hash: str
    synthetic: bool
    mode: str
    observer: str
    delta: float
    rounds: int
    hospitals: int
    canaries: dict[str, int]
    claimed: float
    verdict: Judged
    findings: tuple[Finding, ...]
    points: tuple[Point, ...]
    versions: dict[str, str]


class Seen(msgspec.Struct, frozen=True):
    """What so many colluders learn at least; claimed: None where nothing is promised against so many."""

    colluders: int
    noise: float
    shift: float
    epsilon: float
    claimed: float | None


class Colluders(msgspec.Struct, frozen=True):
    """`colluders.json`."""

    study: str
    study_hash: str
    delta: float
    views: tuple[Seen, ...]


class Mutant(msgspec.Struct, frozen=True):
    """One broken implementation. findings: by kind of run."""

    mutant: str
    about: str
    flagged_by: tuple[str, ...]
    findings: dict[str, tuple[Finding, ...]]


class SelfTest(msgspec.Struct, frozen=True):
    """`self-test.json`."""

    honest_runs: int
    false_alarms: int
    checks: tuple[str, ...]
    honest: dict[str, int]
    mutants: tuple[Mutant, ...]
    passed: bool


class View(msgspec.Struct, frozen=True):
    """One thing that a coordinator might see, of images or of texts; None where the other kind has the figure."""

    view: str = ""
    name: str = ""
    psnr_db: float | None = None
    guess_psnr_db: float | None = None
    ssim: float | None = None
    guess_ssim: float | None = None
    exact_dense_inputs: int | None = None
    patients: int | None = None
    tokens: int | None = None
    share: float | None = None
    baseline: float | None = None

    @property
    def title(self) -> str:
        return self.view or self.name

    @property
    def noisy(self) -> bool:
        return "noise" in self.title


class Views(msgspec.Struct, frozen=True):
    """`view.json`."""

    study: str
    study_hash: str
    mode: str
    views: tuple[View, ...]
    limit: str


class Group(msgspec.Struct, frozen=True, rename={"found": "true_at_false_0.01"}):
    """One attack on one group of patients; area: None where the group is too small. found: at 1% false positives."""

    attack: str
    group: str
    members: int
    others: int
    area: float | None = None
    found: float | None = None
    leaks: bool = False


class Membership(msgspec.Struct, frozen=True):
    """`membership.json`."""

    study: str
    study_hash: str
    mode: str
    shadows: int
    rows: tuple[Group, ...]
    warning: str
    assumption: str


class Examined(msgspec.Struct, frozen=True):
    """One check of a transcript."""

    check: str
    holds: str
    examined: str
    verdict: str
    problems: tuple[str, ...]


class Transcript(msgspec.Struct, frozen=True):
    """`transcript.json` of one hospital."""

    hospital: str
    study: str
    study_hash: str
    uploads: int
    kept: int
    charges: int
    checks: tuple[Examined, ...]
    wrong: tuple[str, ...]
    limit: str


@dataclass(frozen=True)
class File(Generic[T]):
    """One result. path: as shown to a reader, relative to the folder; sha256: of its bytes; folder: where it lies."""

    path: str
    sha256: str
    folder: Path
    content: T


@dataclass(frozen=True)
class Folder:
    """Everything that was found. Each is None where its command has not been run."""

    audit: File[Audit] | None
    colluders: File[Colluders] | None
    self_test: File[SelfTest] | None
    transcripts: tuple[File[Transcript], ...]
    view: File[Views] | None
    membership: File[Membership] | None

    @property
    def files(self) -> list[File[msgspec.Struct]]:
        single = (self.audit, self.colluders, self.self_test, *self.transcripts, self.view, self.membership)
        return [file for file in single if file is not None]  # type: ignore[misc]  # a File of any content

    @property
    def missing(self) -> dict[str, str]:
        """The commands that have not been run, by the file that they would leave."""
        there = {Path(file.path).name for file in self.files}
        return {name: command for name, command in COMMANDS.items() if name not in there}

    @property
    def studies(self) -> dict[str, str]:
        """The studies that the results are of: hash -> name."""
        return {getattr(f.content, "study_hash", ""): getattr(f.content, "study", "") for f in self.files
                if hasattr(f.content, "study_hash")}  # fmt: skip


def read_folder(folder: Path) -> Folder:
    """The results in `folder` and up to two folders below it.

    `UsageError` where there are none, or two of a kind of which there can be one; `FileError` where one is malformed.
    """
    found = Folder(
        _one(folder, "audit.json", Audit),
        _one(folder, "colluders.json", Colluders),
        _one(folder, "self-test.json", SelfTest),
        tuple(_all(folder, "transcript.json", Transcript)),
        _one(folder, "view.json", Views),
        _one(folder, "membership.json", Membership),
    )
    if not found.files:
        raise UsageError(
            f"has none of {', '.join(COMMANDS)}", where=str(folder),
            fix=f"name a folder into which audits wrote, say: {COMMANDS['audit.json']}",
        )  # fmt: skip
    return found


def _one(folder: Path, name: str, kind: type[T]) -> File[T] | None:
    files = list(_all(folder, name, kind))
    if len(files) > 1:
        paths = ", ".join(file.path for file in files)
        raise UsageError(f"there is more than one {name}: {paths}", where=str(folder), fix="name a folder with one")
    return files[0] if files else None


def _all(folder: Path, name: str, kind: type[T]) -> Iterator[File[T]]:
    levels = ["/".join([*["*"] * depth, name]) for depth in range(_DEEP + 1)]
    for path in sorted(path for level in levels for path in folder.glob(level)):
        text = read_text(path)
        digest = hashlib.sha256(text.encode()).hexdigest()
        yield File(path.relative_to(folder).as_posix(), digest, path.parent, _decode(text, kind, path))


def _decode(text: str, kind: type[T], path: Path) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise FileError(
            f"is not what the command writes: {error}", where=str(path), fix="run the audit again, into a new folder"
        ) from None
