"""A run of a study at the coordinator: training rounds, retries, server optimiser, evaluation.

A `retry` round opens over all hospitals that were asked, or not at all; it is then run again without those that stayed
away, with fresh training. A `recover` round opens over those who did not drop out; where a hospital lied about mask
secrets it opens nothing, and is run again without those who are proven to have.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmodels.dp.plan import plan_for
from fedmodels.errors import RoundAborted, RunError, WrongShares
from fedmodels.evaluation.counts import Integers
from fedmodels.evaluation.summary import Summary, summarise
from fedmodels.models.registry import build_model, division
from fedmodels.models.weights import flatten
from fedmodels.packing import (
    GradientPacking,
    MeanUpdate,
    UpdatePacking,
    evaluation_layout,
    evaluation_noise,
    gradient_packing,
    unpack_counts,
    update_packing,
)
from fedmodels.study import Roster, Study, check_roster
from server.checkpoint import Checkpoint, Journal
from server.consortium import Consortium
from server.exchange import Exchange
from server.optimiser import initial_state, server_step
from server.records import Dropout, RoundLine, Seconds

_EVALUATION_ATTEMPTS = 5


@dataclass(frozen=True, repr=False)
class Evaluated:
    """The summed evaluation counts of this many hospitals, and what follows from them."""

    counts: Integers
    hospitals: int
    summary: Summary


@dataclass(frozen=True, repr=False)
class Outcome:
    """What a run ends with.

    model: the weights that are exchanged; evaluated: None where no evaluation succeeded; asked: training uploads that
    each hospital may have charged.
    """

    run_id: bytes
    model: npt.NDArray[np.float32]
    evaluated: Evaluated | None
    dropouts: tuple[Dropout, ...]
    asked: dict[str, int]
    seconds: Seconds


class Coordinator:
    """One run. `rounds()` yields a line as each round ends; `finish()` evaluates and gives the outcome.

    directory: of the run; journal: where the run is kept so that it can go on after a crash; None in a simulation. A
    line is yielded when its round is on disk.
    """

    def __init__(
        self,
        study: Study,
        roster: Roster,
        exchange: Exchange,
        directory: Path,
        journal: Journal | None = None,
    ) -> None:
        check_roster(study, roster)
        self.study, self.roster, self._journal = study, roster, journal
        self._consortium = Consortium(study, roster, exchange, directory, journal)
        self._plan = plan_for(study)
        start = division(study).shared_of(flatten(build_model(study, study.training.seed)))
        self._state = initial_state(start.astype(np.float64), study)
        self._packing = self._pack()
        self._retries, self._done = study.federation.max_retries, 0

    def _pack(self) -> UpdatePacking | GradientPacking:
        parameters = self._state.model.size
        if not self._plan or self._plan.mode == "local":
            return update_packing(self.study, self.roster, parameters)
        packing = gradient_packing(self.study, self.roster, self._plan, parameters)
        for contributors in (self.study.federation.min_contributors, len(self.roster.sizes)):
            packing.check_room(contributors)  # noise that no lattice can hold is refused before anything is charged
        return packing

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on where `checkpoint` was written, instead of setting up."""
        self._state, self._retries, self._done = checkpoint.state, checkpoint.retries, checkpoint.round
        self._consortium.resume(checkpoint)
        if self._done == self.study.training.rounds:
            return
        if checkpoint.retries < 0:
            raise RunError(
                "the study's `federation.max_retries` are used up by rounds that the coordinator lost",
                fix="approve a study with more retries, and begin a new run",
            )
        if not self._may_repeat and checkpoint.lost:
            raise RunError(
                "the coordinator was stopped in the middle of a round that must not be run twice",
                fix="without privacy a `recover` round is never repeated (sums could be subtracted): begin a new run",
            )

    def rounds(self) -> Iterator[RoundLine]:
        """Set up and train; each line is one finished round."""
        if not self._consortium.ready:
            self._consortium.set_up()
            self._keep()
        for number in range(self._done + 1, self.study.training.rounds + 1):
            start, again = time.monotonic(), False
            while True:
                self._consortium.gather(again=again)
                try:
                    mean, hospitals = self._train(number)
                    break
                except (RoundAborted, WrongShares) as error:
                    self._check_repeat(error)
                    self._retries, again = self._retries - 1, True
            line = self._advance(number, mean, hospitals, start)
            self._keep(line)
            yield line

    def _keep(self, line: RoundLine | None = None) -> None:
        if not self._journal:
            return
        consortium = self._consortium
        self._journal.save(
            Checkpoint(
                run_id=consortium.run_id,
                keys=consortium.keys,
                next_session=consortium.next_session,
                state=self._state,
                retries=self._retries,
                asked=consortium.asked,
                dropouts=tuple(consortium.dropouts),
                seconds=consortium.clock.totals,
                line=line,
                liars=tuple(sorted(consortium.liars)),
            )
        )

    def _check_repeat(self, error: RoundAborted | WrongShares) -> None:
        """Raise `RunError` unless an aborted round may be run again."""
        if not self._may_repeat:
            fix = "without privacy a `recover` round is never run twice (sums could be subtracted): start a new run"
        elif self._retries < 1:
            fix = (
                "the study's `federation.max_retries` are used up; a new run of this study draws on the same budget: "
                "approve a study with more retries where hospitals are often away"
            )
        else:
            return
        why = f" ({self._consortium.dropouts[-1].reason})" if isinstance(error, RoundAborted) else ""
        raise RunError(error.what, where=error.where + why, fix=fix)

    @property
    def _may_repeat(self) -> bool:
        return self.study.privacy.mode != "none" or self.study.federation.on_dropout == "retry"

    def _train(self, number: int) -> tuple[MeanUpdate, tuple[str, ...]]:
        model = self._state.model.astype(np.float32)
        total, hospitals = self._consortium.sum("train", number, model, self._packing.words)
        return self._packing.unpack(total, hospitals), hospitals

    def _advance(self, number: int, mean: MeanUpdate, hospitals: tuple[str, ...], start: float) -> RoundLine:
        stepping = time.monotonic()
        self._state = server_step(self._state, mean, self.study)
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
            epsilon=plan.epsilon(max(self._consortium.asked.values())) if plan else None,
            seconds=now - start,
        )

    def finish(self) -> Outcome:
        """Evaluate the final model on the hospitals' test records by one secure sum of (noisy) counts.

        An aborted evaluation is run again a few times: a hospital draws its noise once, so that repeating costs no
        more epsilon. Where it does not succeed, the outcome has no evaluation.
        """
        model, evaluated = self._state.average.astype(np.float32), None
        words = evaluation_layout(self.study).length
        for _ in range(_EVALUATION_ATTEMPTS if self._may_repeat else 1):
            try:
                self._consortium.gather()
                total, hospitals = self._consortium.sum("evaluate", self.study.training.rounds, model, words)
            except (RoundAborted, WrongShares, RunError):
                continue
            evaluated = evaluate(self.study, unpack_counts(total, self.roster), len(hospitals))
            break
        seconds = Seconds(**self._consortium.clock.totals)
        run_id = self._consortium.run_id
        return Outcome(
            run_id, model, evaluated, tuple(self._consortium.dropouts), dict(self._consortium.asked), seconds
        )


def evaluate(study: Study, counts: Integers, hospitals: int) -> Evaluated:
    """What the sum of this many hospitals' evaluation counts says."""
    rule, noise = study.evaluation, evaluation_noise(study, hospitals)
    summary = summarise(counts, evaluation_layout(study), rule.operating_point, rule.specificity, noise)
    return Evaluated(counts, hospitals, summary)
