"""A run of a study at the coordinator: training rounds, retries, server optimiser, evaluation.

A `retry` round opens over all hospitals that were asked, or not at all; it is then run again without those that stayed
away, with fresh training. A `recover` round opens over those who did not drop out.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.dp.plan import plan_for
from fedmodels.errors import RoundAborted, RunError
from fedmodels.evaluation.counts import metrics
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import (
    GradientPacking,
    MeanUpdate,
    UpdatePacking,
    evaluation_layout,
    gradient_packing,
    unpack_counts,
    update_packing,
)
from fedmodels.study import Roster, Study, check_roster
from server.consortium import Consortium, Dropout
from server.exchange import Exchange
from server.optimiser import initial_state, server_step

_EVALUATION_ATTEMPTS = 5


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


class Coordinator:
    """One run. `rounds()` yields a line as each round ends; `finish()` evaluates and gives the outcome."""

    def __init__(self, study: Study, roster: Roster, exchange: Exchange, run_id: bytes) -> None:
        check_roster(study, roster)
        self._study, self._roster = study, roster
        self._consortium = Consortium(study, roster, exchange, run_id)
        self._plan = plan_for(study)
        self._state = initial_state(flatten(build_model(study, study.training.seed)).astype(np.float64), study)
        self._packing = self._pack()
        self._asked = dict.fromkeys(roster.sizes, 0)

    def _pack(self) -> UpdatePacking | GradientPacking:
        parameters = self._state.model.size
        if not self._plan or self._plan.mode == "local":
            return update_packing(self._study, self._roster, parameters)
        packing = gradient_packing(self._study, self._roster, self._plan, parameters)
        for contributors in (self._study.federation.min_contributors, len(self._roster.sizes)):
            packing.mechanism(contributors)  # noise that no lattice can hold is refused before anything is charged
        return packing

    def rounds(self) -> Iterator[RoundLine]:
        """Set up and train; each line is one finished round."""
        self._consortium.set_up()
        retries = self._study.federation.max_retries
        for number in range(1, self._study.training.rounds + 1):
            start, again = time.monotonic(), False
            while True:
                self._consortium.gather(again=again)
                try:
                    mean, hospitals = self._train(number)
                    break
                except RoundAborted as error:
                    self._check_repeat(error, retries)
                    retries, again = retries - 1, True
            yield self._advance(number, mean, hospitals, start)

    def _check_repeat(self, error: RoundAborted, retries: int) -> None:
        """Raise `RunError` unless an aborted round may be run again."""
        if not self._may_repeat:
            fix = "without privacy a `recover` round is never run twice (sums could be subtracted): start a new run"
        elif retries < 1:
            fix = (
                "the study's `federation.max_retries` are used up; a new run of this study draws on the same budget: "
                "approve a study with more retries where hospitals are often away"
            )
        else:
            return
        raise RunError(error.what, where=f"{error.where} ({self._consortium.dropouts[-1].reason})", fix=fix)

    @property
    def _may_repeat(self) -> bool:
        return self._study.privacy.mode != "none" or self._study.federation.on_dropout == "retry"

    def _train(self, number: int) -> tuple[MeanUpdate, tuple[str, ...]]:
        for name in self._consortium.present:
            self._asked[name] += 1
        model = self._state.model.astype(np.float32)
        total, hospitals = self._consortium.sum("train", number, model, self._packing.words)
        return self._packing.unpack(total, hospitals), hospitals

    def _advance(self, number: int, mean: MeanUpdate, hospitals: tuple[str, ...], start: float) -> RoundLine:
        stepping = time.monotonic()
        self._state = server_step(self._state, mean, self._study)
        if not np.isfinite(self._state.model.astype(np.float32)).all():
            raise RunError(f"the model diverged in round {number}", fix="lower the learning rates in `[training]`")
        now = self._consortium.clock.spend("aggregation", stepping)
        plan = self._plan
        return RoundLine(
            round=number,
            hospitals=hospitals,
            loss=None if plan else mean.loss,
            update_norm=float(np.linalg.norm(mean.update)),
            clipped=mean.clipped,
            epsilon=plan.epsilon(max(self._asked.values())) if plan else None,
            seconds=now - start,
        )

    def finish(self) -> Outcome:
        """Evaluate the final model on the hospitals' test records by one secure sum of (noisy) counts.

        An aborted evaluation is run again a few times: a hospital draws its noise once, so that repeating costs no
        more epsilon. Where it does not succeed, the outcome has no metrics.
        """
        layout, model = evaluation_layout(self._study), self._state.average.astype(np.float32)
        measured: dict[str, float] = {}
        for _ in range(_EVALUATION_ATTEMPTS if self._may_repeat else 1):
            try:
                self._consortium.gather()
                total, _ = self._consortium.sum("evaluate", self._study.training.rounds, model, layout.length)
            except (RoundAborted, RunError):
                continue
            measured = metrics(unpack_counts(total, self._roster), layout)
            break
        seconds = Seconds(**self._consortium.clock.totals)
        return Outcome(model, measured, tuple(self._consortium.dropouts), dict(self._asked), seconds)
