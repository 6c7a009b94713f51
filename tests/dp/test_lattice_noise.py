"""The distributed mechanism: sensitivity with rounding, shares that add up, headroom, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmodels.dp.accounting import SampledGaussian, epsilon_upper
from fedmodels.dp.lattice_noise import LatticeMechanism, certain_shares_recover, certain_shares_retry
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import PrivacyError

MECHANISM = LatticeMechanism(
    sampling_rate=0.1, clip=1.0, noise_multiplier=1.2, dimension=1000, scale=1024.0, certain_shares=7
)


def rounded_distance(total: np.ndarray, gradient: np.ndarray) -> float:
    """How far a rounded sum, in lattice units, moves when one gradient is taken out."""
    return float(np.linalg.norm(np.rint(total) - np.rint(total - gradient)))


@pytest.mark.parametrize(("scale", "dimension"), [(16.0, 1), (64.0, 400), (1024.0, 1000), (2.0**20, 50_000)])
def test_rounding_a_sum_moves_it_by_more_than_half_a_unit_per_coordinate_and_never_by_more_than_counted(
    scale: float, dimension: int
) -> None:
    """Each coordinate just above a rounding edge, moved by a whole number of units and a little more."""
    mechanism = replace(MECHANISM, scale=scale, dimension=dimension, noise_multiplier=8.0)
    moved = math.floor(scale / math.sqrt(dimension) - 1e-3) + 2e-6
    total, gradient = np.full(dimension, 0.5 + 1e-6), np.full(dimension, moved)
    assert np.linalg.norm(gradient) <= scale  # a clipped gradient
    distance = rounded_distance(total, gradient)
    whole = np.linalg.norm(gradient) + math.sqrt(dimension)
    assert distance == pytest.approx(whole, rel=1e-4)
    assert distance > np.linalg.norm(gradient) + math.sqrt(dimension) / 2
    assert distance <= mechanism.sensitivity


def test_counting_half_a_unit_per_coordinate_would_be_exceeded() -> None:
    """The control: with gradients of norm exactly C, C * scale + sqrt(d)/2 is not a bound."""
    dimension, scale = 1024, 32.0 * (1 + 2e-6)  # every coordinate moves by one unit and a little
    distance = rounded_distance(np.full(dimension, 0.5 + 1e-6), np.full(dimension, scale / 32.0))
    assert distance > scale + math.sqrt(dimension) / 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 500), st.sampled_from([16.0, 64.0, 4096.0]))
def test_no_sum_and_no_gradient_moves_further_than_the_sensitivity(seed: int, dimension: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    gradient = draw.normal(size=dimension)
    gradient *= scale / np.linalg.norm(gradient)
    total = draw.integers(-9, 9, dimension) + draw.choice([0.5, 0.4999, 0.5001, 0.0], dimension)
    mechanism = replace(MECHANISM, dimension=dimension, scale=scale, noise_multiplier=8.0)
    assert rounded_distance(total, gradient) <= mechanism.sensitivity
    assert mechanism.sensitivity <= scale * (1 + 2**-8) + math.sqrt(dimension) + 2


def test_certain_shares_add_up_to_the_planned_noise() -> None:
    mechanism = replace(MECHANISM, dimension=60_000)
    total = sum(mechanism.share(SecureSource(bytes([i]) * 32)) for i in range(mechanism.certain_shares))
    planned = mechanism.noise_multiplier * mechanism.sensitivity
    assert mechanism.share_sigma * math.sqrt(7) >= mechanism.total_sigma >= planned
    assert total.std() == pytest.approx(planned, rel=0.01)


def test_shares_of_the_same_source_key_would_be_noticed() -> None:
    """Equal noise at every hospital adds up to sqrt(m) times too much, and any hospital can subtract all of it."""
    mechanism = replace(MECHANISM, dimension=60_000)
    one, other, same = (mechanism.share(SecureSource(bytes([i]) * 32)) for i in (1, 2, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert np.corrcoef(one, same)[0, 1] > 0.99


def test_colluders_cost_what_the_design_says() -> None:
    """Noise in the whole sum against planning for no colluders: c=3 of 10, c=1 of 4, recover with n=10, t=8, c=3."""

    def inflation(shares: int, hospitals: int) -> float:
        planned = replace(MECHANISM, certain_shares=shares)
        return planned.share_sigma * math.sqrt(hospitals) / planned.total_sigma

    assert inflation(certain_shares_retry(10, 3), 10) == pytest.approx(1.195, abs=0.01)
    assert inflation(certain_shares_retry(4, 1), 4) == pytest.approx(1.155, abs=0.01)
    assert inflation(certain_shares_recover(10, 8, 3), 10) == pytest.approx(1.826, abs=0.01)
    assert inflation(certain_shares_retry(10, 0), 10) == pytest.approx(1.0, abs=1e-6)


def test_the_event_is_the_one_of_the_noise_that_is_certain() -> None:
    assert MECHANISM.event(40) == SampledGaussian(0.1, 1.2, 40)
    more = replace(MECHANISM, certain_shares=1)
    assert more.event(40) == MECHANISM.event(40)
    assert more.share_sigma == pytest.approx(MECHANISM.share_sigma * math.sqrt(7))


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_on_the_coarsest_lattice_the_discrete_gaussian_costs_what_is_charged(rate: float) -> None:
    noise, units, steps = 1.0, 16, 10
    exact = pld.from_discrete_gaussian_mechanism(
        noise * units, units, value_discretization_interval=1e-4, sampling_prob=rate
    )
    charged = epsilon_upper(SampledGaussian(rate, noise, steps), 1e-5)
    epsilon = exact.self_compose(steps).get_epsilon_for_delta(1e-5)
    assert epsilon == pytest.approx(charged, abs=1e-3)


def test_headroom_is_twelve_deviations_of_everyones_noise() -> None:
    mechanism = replace(MECHANISM, dimension=100_000)
    assert mechanism.headroom(10) == math.ceil(12 * mechanism.share_sigma * math.sqrt(10))
    noise = sum(mechanism.share(SecureSource(bytes([i]) * 32)) for i in range(10))
    assert mechanism.headroom(10) / 3 < np.abs(noise).max() < mechanism.headroom(10) / 2  # 100,000 draws: 4.3 of 12
    with pytest.raises(PrivacyError, match="cannot bring"):
        mechanism.headroom(6)


@pytest.mark.parametrize("shares", [certain_shares_retry(3, 3), certain_shares_recover(10, 6, 3), -1])
def test_a_sum_without_a_certain_share_is_refused(shares: int) -> None:
    with pytest.raises(PrivacyError, match="at least 1 is needed"):
        replace(MECHANISM, certain_shares=shares)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.005},
        {"noise_multiplier": 1e9},
        {"noise_multiplier": math.nan},
        {"certain_shares": 1_000_000},
        {"scale": 8.0},
        {"scale": 1000.0},
        {"scale": math.inf},
        {"clip": 0.0},
        {"clip": math.nan},
        {"dimension": 0},
        {"sampling_rate": 0.0},
    ],
)
def test_what_would_not_be_private_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError):
        replace(MECHANISM, **wrong)
