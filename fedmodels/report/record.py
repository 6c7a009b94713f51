"""What a finished run directory says, checked and typed: the input of every report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from fedmodels.errors import FileError, UsageError
from fedmodels.evaluation.calibration import Temperature
from fedmodels.evaluation.summary import Point, Summary
from fedmodels.files import read_text
from fedmodels.packing import evaluation_layout
from fedmodels.study import Roster, Study, parse_roster, parse_study

T = TypeVar("T")
Amount = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=0)]

_FILES = ("study.toml", "roster.toml", "rounds.jsonl", "result.json")
_REWRITE = "restore the file as the run left it, or run the study again"


class Round(msgspec.Struct, frozen=True):
    """One finished training round. loss and epsilon (training only) are None where there is nothing to tell."""

    round: int
    hospitals: tuple[str, ...]
    loss: Amount | None
    update_norm: Amount
    clipped: Count
    epsilon: Amount | None
    seconds: Amount


class Dropout(msgspec.Struct, frozen=True):
    """A hospital that was asked to contribute and did not; `reason` is what the coordinator knows."""

    round: int
    kind: str
    hospital: str
    reason: str


class Promise(msgspec.Struct, frozen=True):
    """The privacy figures. epsilon: training and evaluation of each hospital; None in mode `none`."""

    observer: str
    delta: Amount | None
    epsilon: dict[str, Amount | None]
    steps: Count
    epsilon_evaluation: Amount | None = None
    noise_multiplier: Amount | None = None
    sampling_rate: Amount | None = None
    clip: Amount | None = None


class Seconds(msgspec.Struct, frozen=True):
    """Wall time of the whole run."""

    total: Amount
    training: Amount
    aggregation: Amount
    waiting: Amount


class Simulation(msgspec.Struct, frozen=True):
    """Exact metrics of all test records in one place."""

    metrics: dict[str, float]
    per_hospital: dict[str, dict[str, float]]


class Counts(msgspec.Struct, frozen=True):
    """`counts.json`: the evaluation counts, noise included, as they were summed over this many hospitals."""

    study_hash: str
    hospitals: Count
    counts: tuple[int, ...]


class Result(msgspec.Struct, frozen=True):
    """The keys of `result.json` that a report needs; others are ignored. Without an evaluation metrics is empty and
    calibration None, see `fedmodels.evaluation.summary` for these and the next."""

    study_hash: str
    roster_hash: str
    run_id: str
    rounds_completed: int
    dropouts: tuple[Dropout, ...]
    metrics: dict[str, float]
    privacy: Promise
    seconds: Seconds
    versions: dict[str, str]
    simulation: Simulation | None = None
    intervals: dict[str, tuple[float, float]] = {}
    binning_error: dict[str, Amount] = {}
    optimism: dict[str, float] = {}
    operating_point: Point | None = None
    calibration: Temperature | None = None

    @property
    def summary(self) -> Summary | None:
        """What the evaluation counts said; None without an evaluation."""
        if self.calibration is None:
            return None
        return Summary(
            self.metrics, self.intervals, self.binning_error, self.optimism, self.operating_point, self.calibration
        )


@dataclass(frozen=True)
class Record:
    """A run directory whose files belong together: rounds are 1, 2, ...; the hashes are those of study and roster.
    counts: None without an evaluation."""

    study: Study
    roster: Roster
    rounds: tuple[Round, ...]
    result: Result
    counts: Counts | None

    @property
    def sessions(self) -> int:
        """The most training contributions that any hospital was asked for, repeated rounds included."""
        if self.study.privacy.mode == "none":
            return len(self.rounds)
        return self.result.privacy.steps // self.study.training.local_steps


def read_record(run: Path) -> Record:
    """The record in a run directory; `UsageError` where files are missing, malformed or not of the same run."""
    if missing := [name for name in _FILES if not (run / name).is_file()]:
        raise UsageError(
            "is not the directory of a finished run: no " + ", ".join(missing),
            where=str(run),
            fix="name a folder that a run has left and finished",
        )
    study = parse_study(read_text(run / "study.toml"), str(run / "study.toml"))
    roster = parse_roster(read_text(run / "roster.toml"), str(run / "roster.toml"))
    rounds, source = [], run / "rounds.jsonl"
    for number, line in enumerate(read_text(source).splitlines(), 1):
        rounds.append(_decode(line, Round, f"{source}:{number}"))
    result = _decode(read_text(run / "result.json"), Result, str(run / "result.json"))
    counts = None
    if result.calibration is not None:
        counts = _decode(read_text(run / "counts.json"), Counts, str(run / "counts.json"))
    record = Record(study, roster, tuple(rounds), result, counts)
    if problem := _problem(record):
        name, what = problem
        raise FileError(what, where=str(run / name), fix=_REWRITE)
    return record


def _decode(text: str, type_: type[T], source: str) -> T:
    try:
        return msgspec.json.decode(text, type=type_)
    except msgspec.ValidationError as error:
        raise FileError(str(error), where=source, fix=_REWRITE) from None
    except msgspec.DecodeError:
        raise FileError("is not valid JSON", where=source, fix=_REWRITE) from None


def _problem(record: Record) -> tuple[str, str] | None:
    """The file that does not fit the others, and why."""
    result, names, count = record.result, record.roster.sizes.keys(), len(record.rounds)
    if result.study_hash != record.study.digest.hex():
        return "study.toml", "is not the study of this run: its hash differs from `study_hash` in result.json"
    if result.roster_hash != record.roster.digest.hex():
        return "roster.toml", "is not the roster of this run: its hash differs from `roster_hash` in result.json"
    if not count or [line.round for line in record.rounds] != list(range(1, result.rounds_completed + 1)):
        return "rounds.jsonl", f"does not hold the rounds 1 to {result.rounds_completed}, one line each"
    if any(not 1 <= dropout.round <= count for dropout in result.dropouts):
        return "result.json", "`dropouts` names a round that is not in rounds.jsonl"
    if record.counts and not _fits(record.counts, record.study):
        return "counts.json", "does not hold the evaluation counts of this study"
    if result.calibration and result.operating_point and not _is_cut(result.operating_point.cut, record.study):
        return "result.json", "`operating_point` is not a bin of this study's counts"
    private, promise = record.study.privacy.mode != "none", result.privacy
    if any((line.loss is None) != private or (line.epsilon is None) == private for line in record.rounds):
        return "rounds.jsonl", "tells a loss with privacy, or lacks one without; epsilon the other way round"
    if private:
        figures = [promise.delta, promise.epsilon_evaluation, promise.noise_multiplier, promise.sampling_rate]
        if promise.epsilon.keys() != names or None in [*figures, promise.clip, *promise.epsilon.values()]:
            return "result.json", "`privacy` lacks figures that the study's privacy mode needs"
    return None


def _fits(counts: Counts, study: Study) -> bool:
    return (counts.study_hash, len(counts.counts)) == (study.digest.hex(), evaluation_layout(study).length)


def _is_cut(cut: int, study: Study) -> bool:
    return 0 < cut < evaluation_layout(study).bins
