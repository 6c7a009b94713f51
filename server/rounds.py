"""A run of a study at the coordinator: set-up, training rounds, retries, evaluation.

The coordinator only ever holds signed public keys, masked vectors and their sums. A round opens over all hospitals that
were asked, or not at all; it is then run again without those that stayed away, with fresh training.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedmodels import secagg, wire
from fedmodels.dp.plan import plan_for
from fedmodels.errors import RemoteProtocolError, RoundAborted, RunError
from fedmodels.evaluation.counts import metrics
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import MeanUpdate, evaluation_layout, unpack_counts, update_packing
from fedmodels.study import Roster, Study, check_roster
from server.exchange import Answer, Exchange
from server.optimiser import Moments, initial_moments, server_step

_NODE_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Dropout:
    """A hospital that did not contribute to a session, and why, in the words of its refusal or node."""

    round: int
    hospital: str
    reason: str


@dataclass(frozen=True)
class RoundLine:
    """One finished training round, as written to `rounds.jsonl`. loss: None where privacy forbids to tell it."""

    round: int
    hospitals: tuple[str, ...]
    loss: float | None
    update_norm: float
    clipped: int
    epsilon: float | None
    seconds: float


@dataclass(frozen=True)
class Seconds:
    """Wall time: waiting for trained contributions; adding, decoding and stepping; waiting for anything else."""

    training: float = 0.0
    aggregation: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a run ends with. asked: training sessions in which each hospital was asked to contribute."""

    model: npt.NDArray[np.float32]
    metrics: dict[str, float]
    dropouts: tuple[Dropout, ...]
    asked: dict[str, int]
    seconds: Seconds


@dataclass
class Clock:
    """Where the wall time of a run goes."""

    totals: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "aggregation": 0.0, "waiting": 0.0})

    def spend(self, purpose: str, since: float) -> float:
        now = time.monotonic()
        self.totals[purpose] += now - since
        return now


class Coordinator:
    """One run. `rounds()` yields a line as each round ends; `finish()` evaluates and gives the outcome."""

    def __init__(self, study: Study, roster: Roster, exchange: Exchange, run_id: bytes) -> None:
        check_roster(study, roster)
        self._study, self._roster, self._exchange, self._run_id = study, roster, exchange, run_id
        terms = secagg.Terms(
            run_id, study.digest, roster.keys, study.federation.min_contributors, study.privacy.max_colluding
        )
        self._aggregator = secagg.Aggregator(terms)
        self._nodes: dict[str, int] = {}
        self._present = tuple(roster.sizes)
        self._informed: set[str] = set()  # hospitals that have all keys
        self._model = flatten(build_model(study, study.training.seed)).astype(np.float64)
        self._moments: Moments = initial_moments(self._model.size)
        self._dropouts: list[Dropout] = []
        self._asked = dict.fromkeys(roster.sizes, 0)
        self._clock = Clock()

    def set_up(self) -> None:
        """Collect every hospital's signed key; `RunError` names those that did not answer in time, and why."""
        start = time.monotonic()
        deadline = start + self._study.federation.timeout_seconds
        request = wire.SetupRequest(self._run_id, self._study.digest, self._roster.digest)
        seen: set[int] = set()
        problems: list[str] = []
        while self._aggregator.missing and (left := deadline - time.monotonic()) > 0:
            new = [node for node in self._exchange.nodes() if node not in seen]
            if not new and problems and len(seen) >= len(self._roster.hospital):
                break  # everyone is here and somebody cannot take part: waiting will not change that
            seen.update(new)
            for answer in self._exchange.ask(dict.fromkeys(new, request), left):
                problems += self._greet(answer)
            if not new:
                time.sleep(_NODE_POLL_SECONDS)
        if self._aggregator.missing:
            raise RunError(
                "the run cannot start without " + ", ".join(self._aggregator.missing),
                where="set-up" + (f" ({'; '.join(problems)})" if problems else ""),
                fix="see errors.log at these hospitals; a run needs every hospital of its roster at the start",
            )
        self._clock.spend("waiting", start)

    def _greet(self, answer: Answer) -> list[str]:
        """Take one answer to the set-up request; returns what is wrong with it."""
        if isinstance(answer.reply, wire.SetupReply):
            try:
                self._aggregator = secagg.collect(self._aggregator, answer.reply.key_message)
            except RemoteProtocolError as error:
                return [str(error.what)]
            self._nodes[answer.reply.hospital] = answer.node
            return []
        return [_reason(answer)]

    def rounds(self) -> Iterator[RoundLine]:
        """Train; each line is one finished round."""
        retries = self._study.federation.max_retries
        for number in range(1, self._study.training.rounds + 1):
            start = time.monotonic()
            while True:
                try:
                    mean = self._train(number)
                    break
                except RoundAborted as error:
                    self._present = self._without(error, retries)
                    retries -= 1
            yield self._advance(number, mean, start)

    def _without(self, error: RoundAborted, retries: int) -> tuple[str, ...]:
        """The hospitals to run an aborted round again with; `RunError` where that is not allowed."""
        left = tuple(name for name in self._present if name not in error.missing)
        if self._study.privacy.mode == "none":
            fix = "without privacy a round is never run twice (sums could be subtracted): start a new run"
        elif retries < 1:
            fix = "the study's `federation.max_retries` are used up: start a new run when all hospitals are reachable"
        elif len(left) < self._study.federation.min_contributors:
            fix = "fewer than `federation.min_contributors` are left: start a new run when they are reachable"
        else:
            return left
        raise RunError(error.what, where=f"{error.where} ({self._dropouts[-1].reason})", fix=fix)

    def _train(self, number: int) -> MeanUpdate:
        packing = update_packing(self._study, self._roster, self._model.size)
        for name in self._present:
            self._asked[name] += 1
        total = self._secure_sum("train", number, packing.words)
        return packing.unpack(total, self._present)

    def _advance(self, number: int, mean: MeanUpdate, start: float) -> RoundLine:
        stepping = time.monotonic()
        self._moments, self._model = server_step(self._moments, self._model, mean.update, self._study.training)
        if not np.isfinite(self._model.astype(np.float32)).all():
            raise RunError(f"the model diverged in round {number}", fix="lower the learning rates in `[training]`")
        now = self._clock.spend("aggregation", stepping)
        plan = plan_for(self._study)
        return RoundLine(
            round=number,
            hospitals=self._present,
            loss=None if plan else mean.loss,
            update_norm=float(np.linalg.norm(mean.update)),
            clipped=mean.clipped,
            epsilon=plan.epsilon(max(self._asked.values())) if plan else None,
            seconds=now - start,
        )

    def finish(self) -> Outcome:
        """Evaluate the final model on the hospitals' test records by one secure sum of (noisy) counts.

        An evaluation round that is aborted is not repeated, its budget is for one upload: the outcome has no metrics.
        """
        layout = evaluation_layout(self._study)
        try:
            total = self._secure_sum("evaluate", self._study.training.rounds, layout.length)
            measured = metrics(unpack_counts(total, self._roster), layout)
        except RoundAborted:
            measured = {}
        return Outcome(
            self._model.astype(np.float32), measured, tuple(self._dropouts), dict(self._asked),
            Seconds(**self._clock.totals),
        )  # fmt: skip

    def _secure_sum(self, kind: wire.Kind, number: int, words: int) -> npt.NDArray[np.uint32]:
        """One session over exactly the hospitals present. `RoundAborted` names who is missing, `dropouts` says why."""
        start, present = time.monotonic(), self._present
        model = self._model.astype(np.float32)
        self._aggregator, session = secagg.open_session(
            self._aggregator, self._aggregator.next_session, present, wire.model_digest(kind, number, model), words
        )
        relay = b"" if self._informed >= set(present) else secagg.relay(self._aggregator)
        request = wire.ContributeRequest(self._run_id, kind, number, session.request, relay)
        names = {self._nodes[name]: name for name in present}
        reasons = dict.fromkeys(present, "no answer in time")
        timeout = self._study.federation.timeout_seconds
        for answer in self._exchange.ask(dict.fromkeys(names, request), timeout, model):
            now = self._clock.spend("training" if kind == "train" else "waiting", start)
            name = names[answer.node]
            reasons[name] = _add(session, answer, name)
            if not reasons[name]:
                self._informed.add(name)
            start = self._clock.spend("aggregation", now)
        self._clock.spend("waiting", start)
        self._dropouts += [Dropout(number, name, reasons[name]) for name in session.missing]
        return session.result()


def _add(session: secagg.Session, answer: Answer, name: str) -> str:
    """Add a contribution; returns why it could not be, or an empty string."""
    if not isinstance(answer.reply, wire.ContributeReply) or answer.array is None:
        return _reason(answer)
    try:
        session.add(answer.reply.header, answer.array)
    except RemoteProtocolError as error:
        return error.what
    return "" if name not in session.missing else "it sent another hospital's contribution"


def _reason(answer: Answer) -> str:
    if isinstance(answer.reply, wire.Refusal):
        return f"refused: {answer.reply.rule}"
    return answer.problem or "it answered something else than it was asked"
