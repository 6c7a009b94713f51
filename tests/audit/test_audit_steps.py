"""The step-level bound on runs whose mechanism is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evidences import PLAN, drawn

from fedmodels.audit.colluders import view, without_known_noise
from fedmodels.audit.evidence import step_weights
from fedmodels.audit.steps import Measured, epsilon_of, from_steps, measure
from fedmodels.audit.summary import bounds_after, checkpoints
from fedmodels.dp.accounting import SampledGaussian, epsilon_lower, epsilon_upper
from fedmodels.errors import PrivacyError
from fedmodels.study import Training


def test_measured_constants_are_on_the_side_of_too_little_and_close() -> None:
    """100 runs at 90% confidence: 10 misses are expected of an exact bound, 19 are three errors more."""
    draw, misses, ratios = np.random.default_rng(0), 0, []
    for _ in range(100):
        evidence = drawn(draw)
        found = measure(evidence, evidence.colluders, 0.9)
        misses += found.noise < PLAN.noise_multiplier or found.shift > 1.0 or found.rate > PLAN.sampling_rate
        ratios.append((PLAN.noise_multiplier / found.noise, found.shift, found.rate / PLAN.sampling_rate))
    assert misses <= 19
    assert (np.mean(ratios, axis=0) > [0.98, 0.95, 0.97]).all()


@pytest.mark.parametrize(("noise", "shift"), [(0.8, 1.0), (1.0, 1.3)])
def test_less_noise_and_longer_gradients_are_refuted_and_the_truth_is_not(noise: float, shift: float) -> None:
    draw = np.random.default_rng(1)
    truth = SampledGaussian(PLAN.sampling_rate, PLAN.noise_multiplier * noise / shift, 40)
    claimed = epsilon_upper(SampledGaussian(PLAN.sampling_rate, PLAN.noise_multiplier, 40), PLAN.delta)
    evidence = drawn(draw, noise=noise, shift=shift)
    bound = from_steps(evidence, evidence.colluders, 0.99)
    assert claimed < bound.epsilon <= epsilon_upper(truth, PLAN.delta)
    assert from_steps(drawn(draw), 1, 0.99).epsilon < claimed


def test_epsilon_of_what_was_measured_is_never_above_that_of_the_accountant() -> None:
    """Also where there is hardly any noise, and epsilon comes from a single test instead."""
    for ratio in (3.0, 1.0, 0.6, 0.3):
        upper = epsilon_upper(SampledGaussian(0.2, ratio, 20), 1e-5)
        found = epsilon_of(Measured(2 * ratio, 2.0, 0.2, 20, 0.99), 1e-5)
        assert 0.9 * upper < found <= upper
    small = [epsilon_of(Measured(ratio, 1.0, 0.2, 20, 0.99), 1e-5) for ratio in (0.15, 0.05, 0.001, 0.0)]
    assert small[0] > 100
    assert small[1] < small[2] == small[3] < 1300
    assert epsilon_of(Measured(1.0, 0.0, 0.2, 20, 0.99), 1e-5) == 0.0


def test_the_optimistic_bound_is_below_the_pessimistic_one() -> None:
    for noise in (0.4, 1.0, 4.0):
        event = SampledGaussian(0.1, noise, 50)
        assert 0.9 * epsilon_upper(event, 1e-5) < epsilon_lower(event, 1e-5) <= epsilon_upper(event, 1e-5)


def test_bounds_grow_with_the_run_and_stay_below_what_is_claimed() -> None:
    points = bounds_after(drawn(np.random.default_rng(2)), [10, 40])
    for early, late in zip(points[0].bounds, points[1].bounds, strict=True):
        assert early.epsilon <= late.epsilon <= points[1].claimed
    assert points[0].claimed < points[1].claimed
    assert checkpoints(3) == [1, 2, 3]
    assert checkpoints(100, 4) == [25, 50, 75, 100]


def test_a_run_in_which_no_canary_was_drawn_says_so() -> None:
    evidence = drawn(np.random.default_rng(3), rounds=1)
    evidence.exposure[:] = 0.0
    with pytest.raises(PrivacyError, match="no canary was ever drawn"):
        measure(evidence, 1, 0.9)


# --- colluders ---------------------------------------------------------------------------------------------------


def test_every_colluder_takes_its_share_of_the_noise_away() -> None:
    """Four shares of sigma / sqrt(3): without c of them the noise is sigma * sqrt((4 - c) / 3)."""
    evidence = drawn(np.random.default_rng(4))
    views = [view(evidence, count, 0.99) for count in range(4)]
    for count, seen in enumerate(views):
        assert seen.noise == pytest.approx(PLAN.noise_multiplier * np.sqrt((4 - count) / 3), rel=0.04)
    assert [seen.epsilon for seen in views] == sorted(seen.epsilon for seen in views)
    assert views[1].epsilon < (views[1].claimed or 0.0) < views[3].epsilon
    assert views[2].claimed is None


def test_noise_that_follows_from_a_colluders_own_is_seen_through() -> None:
    """The same noise at all hospitals: larger than planned for the coordinator alone, none for one colluder."""
    evidence = drawn(np.random.default_rng(5))
    columns = np.arange(evidence.design.free)
    noise = evidence.own.copy()
    noise[:, evidence.design.owner, columns] -= evidence.exposure.astype(np.float32)
    shared = np.repeat(noise[:, :1], 4, axis=1)
    shared[:, evidence.design.owner, columns] += evidence.exposure.astype(np.float32)
    evidence.own[:] = shared
    coordinator, colluder = view(evidence, 0, 0.99), view(evidence, 1, 0.99)
    assert coordinator.epsilon < (coordinator.claimed or 0.0)
    assert colluder.epsilon > 300.0


def test_independent_noise_is_not_seen_through() -> None:
    evidence = drawn(np.random.default_rng(6))
    still = evidence.exposure == 0.0
    before, after = evidence.traces(1)[still], without_known_noise(evidence, 1)[still]
    assert after.std() == pytest.approx(before.std(), rel=2e-3)


def test_a_coordinator_who_lies_about_dropouts_sees_the_fewest_shares() -> None:
    """Of four hospitals, threshold 3, no colluders: 2, and so less noise than four or three would bring."""
    evidence = replace(drawn(np.random.default_rng(7)), max_colluding=0)
    lied_to = replace(evidence, threshold=3)
    honest, seen = view(evidence, 0, 0.99), view(lied_to, 0, 0.99)
    assert seen.noise == pytest.approx(honest.noise * np.sqrt(2 / 4), rel=0.04)
    lied_to.present[:, 0] = False  # three hospitals are asked: none can be said to have dropped out
    assert lied_to.unseen(0).sum() == 0
    assert lied_to.unseen(1).sum(axis=2).max() == 1


# --- local steps -------------------------------------------------------------------------------------------------

LOCAL = replace(PLAN, mode="local", steps_per_release=4)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.1)])
def test_weights_of_local_steps_are_those_of_torchs_sgd(momentum: float, decay: float) -> None:
    training = Training(
        rounds=1, local_steps=4, learning_rate=0.3, momentum=momentum, weight_decay=decay, optimiser="sgd"
    )
    gradients = [0.7, -1.1, 0.4, 2.0]
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=momentum, weight_decay=decay)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    expected = -float(weight.detach()) / 0.3
    assert float(step_weights(training, LOCAL) @ gradients) == pytest.approx(expected, rel=1e-5)


def test_adam_between_releases_is_refused() -> None:
    """In mode `distributed` it is the coordinator's, after the release."""
    adam = Training(rounds=1, local_steps=4, optimiser="adam")
    with pytest.raises(PrivacyError, match="Adam"):
        step_weights(adam, LOCAL)
    assert step_weights(adam, PLAN).tolist() == [1.0]
