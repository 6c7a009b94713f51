"""Every named check on evidence of a correct run, and on evidence with one thing wrong."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from evidences import HOSPITALS, PLAN, drawn

from fedmodels.audit.bounds import Bound
from fedmodels.audit.checks import CHECKS, _dispersion, run_checks
from fedmodels.audit.evidence import Evidence
from fedmodels.audit.verdict import verdict
from fedmodels.dp.accounting import SampledGaussian


def flagged(evidence: Evidence) -> set[str]:
    return {finding.check for finding in run_checks(evidence) if finding.flagged}


def test_a_correct_run_passes_every_check() -> None:
    findings = run_checks(drawn(np.random.default_rng(0)))
    assert [finding.check for finding in findings] == list(CHECKS)
    assert not any(finding.flagged for finding in findings)


def one_hospital_without_noise(evidence: Evidence) -> Evidence:
    evidence.own[:, 2] = np.where(evidence.exposure[:, : evidence.design.free] > 0, evidence.own[:, 2], 0.0)
    return evidence


def less_noise_after_a_dropout(evidence: Evidence) -> Evidence:
    """Three shares of sigma / sqrt(3), one of them a colluder's, where sigma / sqrt(2) is needed."""
    evidence.own[30:, 3], evidence.present[30:, 3] = 0.0, False
    evidence.exposure[30:, evidence.design.owner == 3] = 0.0
    charges, batches = list(evidence.charges), list(evidence.batches)
    charges[3], batches[3] = charges[3][:30], batches[3][:30]
    return replace(evidence, charges=tuple(charges), batches=tuple(batches))


def long_gradients_not_clipped(evidence: Evidence) -> Evidence:
    long = np.flatnonzero(evidence.design.long)
    evidence.own[:, evidence.design.owner[long], long] += 9.0 * evidence.exposure[:, long].astype(np.float32)
    return evidence


def always_the_same_number_in_a_batch(evidence: Evidence) -> Evidence:
    sizes = [round(PLAN.sampling_rate * len(evidence.design.members(h))) for h in range(HOSPITALS)]
    return replace(evidence, batches=tuple(np.full(evidence.rounds, size) for size in sizes))


def everybody_equally_often(evidence: Evidence) -> Evidence:
    return replace(evidence, drawn=np.where(evidence.design.inside, round(0.2 * evidence.rounds), 0))


def noise_of_the_round_before(evidence: Evidence) -> Evidence:
    evidence.own[7, 1] = evidence.own[6, 1]
    return evidence


def noise_of_another_hospital(evidence: Evidence) -> Evidence:
    evidence.own[:, 1] = 0.9 * evidence.own[:, 1] + 0.436 * evidence.own[:, 0]
    return evidence


def a_divisor_that_depends_on_patients(evidence: Evidence) -> Evidence:
    return replace(evidence, movements=np.array([[1.0, 0.0], [320 / 321, 0.0]]))


def a_rate_that_depends_on_patients(evidence: Evidence) -> Evidence:
    return replace(evidence, movements=np.array([[1.0, 0.0], [1.0, 1.0]]))


def an_upload_without_a_charge(evidence: Evidence) -> Evidence:
    return replace(evidence, charges=(evidence.charges[0][:-1], *evidence.charges[1:]))


def more_noise_claimed_than_planned(evidence: Evidence) -> Evidence:
    more = SampledGaussian(PLAN.sampling_rate, 1.01 * PLAN.noise_multiplier, 1)
    return replace(evidence, charges=((more,) * evidence.rounds, *evidence.charges[1:]))


def another_sum(evidence: Evidence) -> Evidence:
    return replace(evidence, sums_open=False)


def a_coordinate_with_little_noise(evidence: Evidence) -> Evidence:
    evidence.own[:, :, 17] *= 0.2
    return evidence


def a_canary_that_is_drawn_far_too_often(evidence: Evidence) -> Evidence:
    hits = evidence.drawn.copy()
    hits[evidence.design.members(0)[0]] = evidence.rounds
    return replace(evidence, drawn=hits)


WRONG: list[tuple[Callable[[Evidence], Evidence], str]] = [
    (one_hospital_without_noise, "noise"),
    (less_noise_after_a_dropout, "noise after dropouts"),
    (long_gradients_not_clipped, "shift"),
    (always_the_same_number_in_a_batch, "participation"),
    (everybody_equally_often, "participation"),
    (noise_of_the_round_before, "freshness"),
    (noise_of_another_hospital, "independence"),
    (a_divisor_that_depends_on_patients, "public constants"),
    (a_rate_that_depends_on_patients, "public constants"),
    (an_upload_without_a_charge, "charges"),
    (more_noise_claimed_than_planned, "charges"),
    (another_sum, "secure sums"),
    (a_coordinate_with_little_noise, "homogeneity"),
    (a_canary_that_is_drawn_far_too_often, "homogeneity"),
]


@pytest.mark.parametrize(("wrong", "check"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_each_wrong_is_flagged_by_its_check(wrong: Callable[[Evidence], Evidence], check: str) -> None:
    assert check in flagged(wrong(drawn(np.random.default_rng(1))))


def test_a_run_without_a_single_canary_in_a_batch_is_not_in_order() -> None:
    evidence = drawn(np.random.default_rng(2), rounds=2)
    evidence.exposure[:] = 0.0
    assert {"shift", "step-level epsilon"} <= flagged(evidence)


@pytest.mark.parametrize(("trials", "counts"), [(16, 125), (125, 16), (16, 8)])
def test_probabilities_of_dispersion_are_probabilities(trials: int, counts: int) -> None:
    """5000 draws: 1% is 50 +- 7. The control: counts that all are alike, or too far apart."""
    draw = np.random.default_rng(3)
    found = [_dispersion(draw.binomial(trials, 0.2, counts), trials, 0.2) for _ in range(5000)]
    assert 25 < sum(p < 0.01 for p in found) < 80
    assert 200 < sum(p < 0.05 for p in found) < 310
    assert _dispersion(np.full(125, 3), 16, 0.2) < 1e-9
    assert _dispersion(draw.binomial(16, draw.choice([0.0, 0.4], 125)), 16, 0.2) < 1e-6


def test_false_alarms_over_many_runs_are_as_rare_as_promised() -> None:
    """100 correct runs at a family-wise error of 10% (so that there is something to count): at most 10 + 3 errors."""
    draw, alarms = np.random.default_rng(4), 0
    for _ in range(100):
        alarms += any(finding.flagged for finding in run_checks(drawn(draw, free=400, rounds=12), 0.1))
    assert 0 < alarms <= 19


# --- verdict -----------------------------------------------------------------------------------------------------


def bound(epsilon: float) -> Bound:
    return Bound("step level", epsilon, 0.99, "none")


def test_the_verdict_is_one_sentence() -> None:
    passed = run_checks(drawn(np.random.default_rng(0)))
    failed = run_checks(another_sum(drawn(np.random.default_rng(0))))
    for bounds, findings, conclusion, said in (
        ([bound(7.9), bound(1.0)], passed, "consistent", "7.90 (99%; step level, 99% confidence)"),
        ([bound(8.1)], passed, "broken", "at least 8.10"),
        ([bound(7.9)], failed, "broken", "secure sums"),
        ([bound(3.9)], passed, "too weak", "audit more rounds"),
    ):
        judged = verdict(bounds, findings, 8.0, 1e-5)
        assert judged.conclusion == conclusion
        assert said in judged.said
        assert "epsilon 8.00 at delta 1e-05" in judged.said
        assert judged.said.endswith(".")
