"""Constants chosen on synthetic cohorts: every kind of cohort trains, and the least mean regret is found."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from simulations.benchmarks import constants
from simulations.benchmarks.constants import Job, Pair, choose
from simulations.benchmarks.problems import Case
from simulations.benchmarks.utility import EPSILONS
from simulations.cohorts import Kind


def test_the_pair_with_the_least_mean_regret_comes_first() -> None:
    scores = {  # by pair: two seeds of each of two cohorts
        Pair(0.5, 1.0): ((0.9, 0.8), (0.7, 0.7)),
        Pair(1.0, 1.0): ((0.9, 0.9), (0.6, 0.6)),
        Pair(2.0, 1.0): ((0.5, 0.5), (0.7, 0.72)),
    }
    kinds: tuple[Kind, Kind] = ("table", "text")
    found = {
        Job(kind, Path(kind), pair, 8.0, seed): aurocs[seed]
        for pair, cohorts in scores.items()
        for kind, aurocs in zip(kinds, cohorts, strict=True)
        for seed in range(2)
    }
    first, second, third = choose(found)
    assert [c.pair.learning_rate for c in (first, second, third)] == [0.5, 1.0, 2.0]
    assert first.auroc == pytest.approx({"table, epsilon 8": 0.85, "text, epsilon 8": 0.7})
    assert (first.mean_regret, first.worst_regret) == pytest.approx((0.03, 0.05))  # bests: 0.9 and 0.71
    assert (second.mean_regret, third.worst_regret) == pytest.approx((0.055, 0.4))


def test_every_cohort_trains_as_a_new_study_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "_PATIENTS", dict.fromkeys(constants._PATIENTS, 20))
    jobs = list(constants._jobs(tmp_path, 1, (constants.defaults(),)))
    assert len(jobs) == len(EPSILONS) * 4
    for job in jobs[:: len(EPSILONS)]:
        study = constants._case(job).study
        assert (study.privacy.mode, study.training.rounds, study.privacy.epsilon) == ("distributed", 100, job.epsilon)
        assert Pair(study.training.learning_rate, study.privacy.clip) == constants.defaults()

    def in_two_rounds(job: Job) -> Case:
        whole = case_of(job)
        training = msgspec.structs.replace(whole.study.training, rounds=2)
        return replace(whole, study=msgspec.structs.replace(whole.study, training=training))

    case_of = constants._case
    monkeypatch.setattr(constants, "_case", in_two_rounds)
    aurocs = {job.kind: job.run() for job in jobs[:: len(EPSILONS)]}
    assert set(aurocs) == {"image", "series", "text", "table"}
    assert all(0.0 <= auroc <= 1.0 for auroc in aurocs.values())
