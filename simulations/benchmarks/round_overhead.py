"""`fedmodels bench round`: a simulated round with secure aggregation against the same round with a plain sum.

The product has no insecure mode, and gets none for this. The plain sum exists only in the benchmark's own process,
where `_PLAIN` replaces what secure aggregation does in a round: masking, its checks at the coordinator, the session's
binding to the model, and writing the ratcheted state. Everything else is the same code on both sides: training,
encoding, messages, ledger, log. Two federations with the same data take turns, round by round.

Two models of a million weights, trained as `study new` proposes for mode `local`: a network for tables, whose training
is short, and the article's text LSTM. Two figures: the ratio of the medians of whole rounds, which a busy machine blurs
by more than the effect; and the time inside the replaced functions alone, which it does not. Without privacy both
federations train bit by bit the same, and each pair of rounds is compared.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.clientapp import ClientApp

from client.app import register
from client.runfiles import RunFiles
from fedmodels import secagg, wire
from fedmodels.errors import RunError
from fedmodels.models.registry import build_model, parameter_count
from fedmodels.settings import apply_settings
from fedmodels.study import parse_roster, parse_study
from server.exchange import Exchange
from server.records import RoundLine
from server.rounds import Coordinator
from simulations.benchmarks.machine import Machine, this_machine
from simulations.cohorts import TABLE_INPUT, Kind, write_cohort
from simulations.federation import Federation, build_federation, natural
from simulations.localgrid import LocalGrid

Progress = Callable[[str], None]

_GOAL = 1.05
_PATIENTS = 200
_STUDY = """\
[study]
name = "bench-round"
task = "binary"
labels = ["healthy", "diseased"]
synthetic = true
[training]
rounds = 1
local_steps = 5
batch_rate = 0.1
learning_rate = 0.1
[privacy]
mode = "local"
[federation]
hospitals = 10
"""
_TEXT_INPUT = """\
[input]
modality = "text"
vocabulary = {vocabulary}
max_tokens = 48
"""


@dataclass(frozen=True)
class Case:
    """A model and the made-up patients that it is trained on."""

    model: str
    cohort: Kind
    input: str
    sizes: str = "{}"

    def study(self, mode: str, plan: "Plan") -> str:
        """Its study, as TOML."""
        settings = (
            f"model.name={self.model}",
            f"model.sizes={self.sizes}",
            f"privacy.mode={mode}",
            f"training.rounds={plan.repetitions + 1}",
            f"federation.hospitals={plan.hospitals}",
        )
        return apply_settings(_STUDY + self.input, settings)


@dataclass(frozen=True)
class Plan:
    """What is measured: models, each in a privacy mode."""

    cases: tuple[tuple[Case, str], ...]
    hospitals: int
    repetitions: int


def _plan(hidden: str, vocabulary: int, hospitals: int, repetitions: int) -> Plan:
    table = Case("mlp", "table", TABLE_INPUT, f"{{ hidden = {hidden} }}")
    text = Case("article-text-lstm", "text", _TEXT_INPUT.format(vocabulary=vocabulary))
    cases = ((table, "local"), (text, "local"), (table, "none"))
    return Plan(cases, hospitals, repetitions)


FULL = _plan("[1000, 990]", 8192, 10, 7)
QUICK = _plan("[32]", 64, 4, 3)


@dataclass(frozen=True)
class Row:
    """Medians. part: milliseconds per round inside what the plain sum replaces; overhead: by whole rounds; by_parts: by
    the difference of the parts."""

    model: str
    mode: str
    parameters: int
    hospitals: int
    local_steps: int
    secure_ms: float
    plain_ms: float
    secure_part_ms: float
    plain_part_ms: float
    overhead: float
    by_parts: float


@dataclass(frozen=True)
class Report:
    """reached: whether the rounds of mode `local` cost at most 5% more, all by the parts; None if not measured."""

    machine: Machine
    load_after: float
    repetitions: int
    rows: tuple[Row, ...]
    goal: float
    reached: bool | None


def run(plan: Plan, progress: Progress) -> Report:
    """Measure rounds of all cases. progress: called with a few words before each step."""
    machine = this_machine()
    rows = tuple(_measure(case, mode, plan, progress) for case, mode in plan.cases)
    reached = all(1 + row.by_parts <= _GOAL for row in rows if row.mode == "local") if plan == FULL else None
    return Report(machine, round(os.getloadavg()[0], 2), plan.repetitions, rows, _GOAL, reached)


def _measure(case: Case, mode: str, plan: Plan, progress: Progress) -> Row:
    text = case.study(mode, plan)
    study, name = parse_study(text), f"{case.model}, mode {mode}"
    with tempfile.TemporaryDirectory(prefix="fedmodels-bench-") as folder:
        progress(f"{name}: preparing hospitals")
        bindings = write_cohort(case.cohort, Path(folder) / "cohort", plan.hospitals, _PATIENTS, 0)
        sides = []
        for side in ("secure", "plain"):
            federation = build_federation(study, text.encode(), natural(bindings), Path(folder) / side)
            sides.append(_Side(_rounds(federation)))
        for each in sides:
            next(each.rounds)  # the first round also relays the keys
        for repetition in range(plan.repetitions):
            progress(f"{name}: round {repetition + 1} of {plan.repetitions}")
            lines = [each.take(plain) for each, plain in zip(sides, (False, True), strict=True)]
            if mode == "none" and lines[0].update_norm != lines[1].update_norm:
                raise RunError("secure and plain sums differ", where=f"round {lines[0].round}", fix="this is a bug")
    secure, plain = sides
    return Row(
        case.model,
        mode,
        parameter_count(build_model(study)),
        plan.hospitals,
        study.training.local_steps,
        1e3 * median(secure.seconds),
        1e3 * median(plain.seconds),
        1e3 * median(secure.parts),
        1e3 * median(plain.parts),
        median(secure.seconds) / median(plain.seconds) - 1,
        (median(secure.parts) - median(plain.parts)) / median(plain.seconds),
    )


def _rounds(federation: Federation) -> Iterator[RoundLine]:
    """The training rounds of a federation in this process, set up."""
    study, roster = parse_study(federation.study_file.read_text()), parse_roster(federation.roster_file.read_text())
    grid = LocalGrid(register(ClientApp()), [{"site": str(site)} for site in federation.sites])
    return Coordinator(study, roster, Exchange(grid), federation.sites[0].parent).rounds()


@dataclass
class _Side:
    """One of the two federations, and what its rounds took."""

    rounds: Iterator[RoundLine]
    seconds: list[float] = field(default_factory=list)
    parts: list[float] = field(default_factory=list)

    def take(self, plain: bool) -> RoundLine:
        spent: list[float] = []
        with _replaced(spent, plain=plain):
            start = time.perf_counter()
            line = next(self.rounds)
            self.seconds.append(time.perf_counter() - start)
        self.parts.append(sum(spent))
        return line


class _PlainSession:
    """Stands in for `secagg.Session`: adds what comes."""

    def __init__(self, session: secagg.Session, contributors: tuple[str, ...], words: int) -> None:
        self.request = session.request
        self._sum = np.zeros(words, np.uint32)
        self._waiting = dict.fromkeys(sorted(contributors))

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(self._waiting)

    def add(self, header: bytes, vector: secagg.Vector) -> None:
        np.add(self._sum, vector, out=self._sum)
        del self._waiting[header.decode()]

    def result(self) -> secagg.Vector:
        return self._sum


_open_session = secagg.open_session


def _open_plain(
    state: secagg.Aggregator, session: int, contributors: tuple[str, ...], model_digest: bytes, words: int
) -> tuple[secagg.Aggregator, _PlainSession]:
    state, opened = _open_session(state, session, contributors, model_digest, words)
    return state, _PlainSession(opened, contributors, words)


def _upload_plain(
    state: secagg.Ready, _request: bytes, _digest: bytes, vector: secagg.Vector, **_: bool
) -> tuple[secagg.Ready, secagg.Upload]:
    return state, secagg.Upload(state.name.encode(), vector)


_PLAIN: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (secagg, "upload", _upload_plain),
    (secagg, "open_session", _open_plain),
    (secagg, "check_sender", lambda *_: None),
    (wire, "weights_digest", lambda _: bytes(64)),
    (RunFiles, "save", lambda *_: None),
)
_SECURE: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    *((owner, name, getattr(owner, name)) for owner, name, _ in _PLAIN),
    (secagg.Session, "add", secagg.Session.add),
)


@contextmanager
def _replaced(spent: list[float], *, plain: bool) -> Iterator[None]:
    """Within this context the functions are the plain ones or the product's own, and each call's seconds are kept."""
    chosen = (*_PLAIN, (_PlainSession, "add", _PlainSession.add)) if plain else _SECURE
    with ExitStack() as stack:
        for owner, name, function in chosen:
            stack.enter_context(patch.object(owner, name, _timed(function, spent)))
        yield


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent.append(time.perf_counter() - start)

    return call
