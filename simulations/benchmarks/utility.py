"""`fedmodels bench utility`: what privacy costs in accuracy, by who adds the noise.

For each data set and epsilon: private training on pooled data, mode `distributed` (planned for no colluding hospital,
which takes the noise of pooled training and up to 0.6% more for the lattice, for one, and for a third of them), mode
`local`, and every hospital alone; beside all of them pooled training without privacy.
Seeds are paired: the same seed means the same hospitals and the same initial weights in every row. Batches and noise
come from the operating system. A score is on the exact test records of all hospitals together.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, stdev

from fedmodels.data.dataset import TRAIN
from fedmodels.models.batches import predict
from fedmodels.models.registry import model_with
from simulations.benchmarks.baselines import Predictor, scores, train_pooled
from simulations.benchmarks.machine import Machine, this_machine
from simulations.benchmarks.output import Target
from simulations.benchmarks.private_training import (
    Weights,
    train_alone,
    train_distributed,
    train_local,
    train_pooled_private,
)
from simulations.benchmarks.problems import PROBLEMS, Case, Problem
from simulations.benchmarks.workers import Progress, run_all

EPSILONS = (1.0, 3.0, 8.0)
NON_PRIVATE = "pooled, no privacy"
POOLED, TRUSTING, DISTRIBUTED, CAUTIOUS, LOCAL, ALONE = (
    "pooled", "distributed, none colluding", "distributed", "distributed, a third colluding", "local", "alone",
)  # fmt: skip
ROWS = (POOLED, TRUSTING, DISTRIBUTED, CAUTIOUS, LOCAL, ALONE)


@dataclass(frozen=True)
class Point:
    """One row at one epsilon (None: without privacy): mean over seeds and its standard error."""

    row: str
    epsilon: float | None
    mean: float
    standard_error: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """One data set."""

    problem: str
    metric: str
    hospitals: int
    seeds: int
    points: tuple[Point, ...]
    targets: tuple[Target, ...]

    def point(self, row: str, epsilon: float | None) -> Point:
        return next(point for point in self.points if (point.row, point.epsilon) == (row, epsilon))

    def paired(self, row: str, other: str, epsilon: float) -> tuple[float, float]:
        """The mean over seeds of `row` - `other`, and its standard error."""
        pairs = zip(self.point(row, epsilon).scores, self.point(other, epsilon).scores, strict=True)
        return _mean_and_error([score - beside for score, beside in pairs])


@dataclass(frozen=True)
class Report:
    machine: Machine
    results: tuple[Result, ...]


def run(names: tuple[str, ...], seeds: int | None, progress: Progress) -> Report:
    """Measure the problems `names`; seeds: of each, None = as many as the problem asks for."""
    machine = this_machine()
    jobs = [job for name in names for job in _jobs(PROBLEMS[name], seeds or PROBLEMS[name].seeds)]
    found = run_all(jobs, machine.cores, progress)
    return Report(machine, tuple(_result(PROBLEMS[name], found) for name in names))


@dataclass(frozen=True)
class Job:
    """One training run of a worker process."""

    problem: str
    row: str
    epsilon: float | None
    seed: int

    @property
    def name(self) -> str:
        return f"{self.problem}: {self.row}"

    def run(self) -> float:
        problem = PROBLEMS[self.problem]
        case = partial(problem.case, self.seed)
        if self.epsilon is None:
            plain = case("none", ())
            return scores(train_pooled(plain.study, plain.parts), plain.parts)[problem.metric]
        settings = [f"privacy.epsilon={self.epsilon}"]
        if self.row == TRUSTING:
            settings += ["privacy.max_colluding=0"]
        if self.row == CAUTIOUS:
            third = problem.hospitals // 3
            settings += [f"privacy.max_colluding={third}", f"federation.min_contributors={third + 2}"]
        private = case("local" if self.row in (LOCAL, ALONE) else "distributed", tuple(settings))
        return fmean(score(private, weights)[problem.metric] for weights in _train(self.row, private))


def _jobs(problem: Problem, seeds: int) -> Iterator[Job]:
    for seed in range(seeds):
        yield Job(problem.name, NON_PRIVATE, None, seed)
        for epsilon in EPSILONS:
            for row in ROWS:
                if row != CAUTIOUS or problem.hospitals // 3 > 1:
                    yield Job(problem.name, row, epsilon, seed)


def _train(row: str, case: Case) -> Iterator[Weights]:
    """The trained model; of `alone`, one per hospital."""
    if row == ALONE:
        for part in case.parts.values():
            if len(part.part(TRAIN)):
                yield train_alone(case.study, part)
        return
    train = {POOLED: train_pooled_private, LOCAL: train_local}.get(row, train_distributed)
    yield train(case.study, case.parts)


def score(case: Case, weights: Weights) -> dict[str, float]:
    """Metrics of trained weights on the exact test records of all hospitals."""
    model = model_with(case.study, weights)
    predictor: Predictor = lambda data: predict(model, data, case.study.input)  # noqa: E731 - its type is the point
    return scores(predictor, case.parts)


def _result(problem: Problem, found: dict[Job, float]) -> Result:
    rows: dict[tuple[str, float | None], list[float]] = {}
    for job, score in sorted(found.items(), key=lambda item: item[0].seed):
        if job.problem == problem.name:
            rows.setdefault((job.row, job.epsilon), []).append(score)
    points = tuple(
        Point(row, epsilon, *_mean_and_error(s), tuple(s))
        for (row, epsilon), s in sorted(rows.items(), key=lambda item: (item[0][1] or 0.0, item[0][0]))
    )
    seeds = len(next(iter(rows.values())))
    result = Result(problem.name, problem.metric, problem.hospitals, seeds, points, ())
    return replace(result, targets=tuple(_targets(problem, result)))


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _targets(problem: Problem, result: Result) -> Iterator[Target]:
    plain = result.point(NON_PRIVATE, None).mean
    rows = {point.row for point in result.points}
    for epsilon in EPSILONS:
        pooled, local = result.point(POOLED, epsilon).mean, result.point(LOCAL, epsilon).mean
        distributed = result.point(DISTRIBUTED, epsilon).mean
        at = f"{problem.name}, epsilon {epsilon:g}"
        for row in (TRUSTING, DISTRIBUTED):
            distance, error = result.paired(row, POOLED, epsilon)
            yield Target(f"{at}: |{row} - pooled| (± {error:.4f})", "<= 0.005", abs(distance), abs(distance) <= 0.005)
        gap = pooled - local
        for row, goal in ((TRUSTING, 0.95), (DISTRIBUTED, 0.95), (CAUTIOUS, 0.85)):
            if row in rows:
                closed = (result.point(row, epsilon).mean - local) / gap if gap else math.nan
                yield Target(
                    f"{at}: part of the gap {gap:.3f} to local closed by {row}", f">= {goal}", closed,
                    closed >= goal if gap >= 0.02 else None,
                )  # fmt: skip
        if allowed := problem.allowed_loss.get(epsilon):
            loss = plain - distributed
            yield Target(f"{at}: below pooled without privacy", f"<= {allowed}", loss, loss <= allowed)
