"""LiRA and RMIA find the members of an overfitted model, and nothing where its weights carry noise."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from fedmodels.audit.membership import Flags, Floats, confidence, halves, lira, rmia, roc
from fedmodels.errors import UsageError

PATIENTS, FEATURES = 400, 230


class World:
    """Random features with random labels: whatever a model says better than by chance it has memorised."""

    def __init__(self, noise: float) -> None:
        self.draw = np.random.default_rng(0)
        self.x = self.draw.standard_normal((PATIENTS, FEATURES))
        self.y = self.draw.choice([-1.0, 1.0], PATIENTS)
        self.noise = noise

    def confidences(self, inside: Flags) -> Floats:
        """Of the least-squares model of those inside, with noise on its weights."""
        weights = np.linalg.lstsq(self.x[inside], self.y[inside], rcond=None)[0]
        weights = weights + self.noise * self.draw.standard_normal(FEATURES)
        values: Floats = self.y * (self.x @ weights)
        return values


def attacked(noise: float, shadows: int) -> tuple[Floats, Floats, Flags, Flags]:
    world = World(noise)
    member = world.draw.random(PATIENTS) < 0.5
    inside = halves(shadows, PATIENTS, 1)
    return world.confidences(member), np.stack([world.confidences(row) for row in inside]), inside, member


def test_lira_finds_the_members_of_an_overfitted_model() -> None:
    target, shadows, inside, member = attacked(0.0, 16)
    curve = roc(lira(target, shadows, inside), member)
    assert curve.area > 0.95
    found = curve.true_at(0.01)
    assert found is not None
    assert found > 0.3
    assert curve.deviations > 10
    assert curve.chance_of_top < 0.1


def test_rmia_finds_them_with_two_shadow_models() -> None:
    target, shadows, _, member = attacked(0.0, 2)
    assert roc(rmia(target, shadows, ~member), member).deviations > 5


def test_neither_finds_anything_behind_noise() -> None:
    """The negative control: the same attacks on weights that are mostly noise."""
    target, shadows, inside, member = attacked(20.0, 16)
    for scores in (lira(target, shadows, inside), rmia(target, shadows, ~member)):
        assert abs(roc(scores, member).deviations) < 3.1


def test_lira_is_the_likelihood_ratio_of_two_gaussians() -> None:
    shadows = np.array([[3.0, 0.0], [5.0, 2.0], [0.0, 6.0], [2.0, 8.0]])
    inside = np.array([[True, False], [True, False], [False, True], [False, True]])
    # Means with: 4 and 7, without: 1 and 1; the variance is 2 everywhere.
    expected = [(-((2 - 4) ** 2) + (2 - 1) ** 2) / 4, (-((7 - 7) ** 2) + (7 - 1) ** 2) / 4]
    np.testing.assert_allclose(lira(np.array([2.0, 7.0]), shadows, inside), expected)


def test_rmia_ranks_ratios_within_the_population() -> None:
    """Ratios p / mean p by hand; a patient of the population is not compared with itself."""

    def logit(p: list[float]) -> Floats:
        return np.log(np.array(p) / (1 - np.array(p)))

    target, shadows = logit([0.9, 0.2, 0.5, 0.4]), np.stack([logit([0.5] * 4), logit([0.5] * 4)])
    population = np.array([False, True, True, True])  # ratios 1.8; 0.4, 1.0, 0.8
    np.testing.assert_allclose(rmia(target, shadows, population), [1.0, 0.0, 1.0, 0.5])


def test_confidence_is_the_logit_of_the_true_label() -> None:
    probabilities = np.array([[0.2, 0.8], [0.2, 0.8], [1.0, 1e-9]])
    y: npt.NDArray[np.int64] = np.array([1, 0, 0])
    np.testing.assert_allclose(confidence(probabilities, y), [math.log(4), -math.log(4), 9 * math.log(10)])


def test_every_patient_is_in_half_of_the_shadows() -> None:
    inside = halves(6, 50, 3)
    assert (inside.sum(0) == 3).all()
    assert len({tuple(row) for row in inside.tolist()}) == 6


def test_roc_by_hand_with_ties() -> None:
    curve = roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    assert curve.false.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert curve.true.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.area == pytest.approx(0.875)
    assert curve.true_at(0.5) == 1.0
    assert curve.true_at(0.1) is None  # one of two is a rate of a half


def test_the_chance_of_the_top_is_a_hypergeometric_tail() -> None:
    scores = -np.arange(200.0)
    member = np.zeros(200, np.bool_)
    member[:2] = member[100:198] = True  # 100 of 200, among them the two highest
    assert roc(scores, member).chance_of_top == pytest.approx((100 / 200) * (99 / 199))


def test_scores_that_say_nothing_seldom_look_like_a_leak() -> None:
    draw = np.random.default_rng(5)
    alarms = 0
    for _ in range(300):
        curve = roc(draw.random(300), draw.random(300) < 0.5)
        alarms += curve.deviations > 3.1 or curve.chance_of_top < 1e-3
    assert alarms <= 2


@pytest.mark.parametrize("shadows", [0, 1, 3])
def test_numbers_of_shadows_that_cannot_be_halved_are_refused(shadows: int) -> None:
    with pytest.raises(UsageError, match="cannot be halved"):
        halves(shadows, 10, 0)


def test_attacks_without_what_they_need_are_refused() -> None:
    inside = halves(2, 4, 0)
    with pytest.raises(UsageError, match="4 shadow"):
        lira(np.zeros(4), np.zeros((2, 4)), inside)
    with pytest.raises(UsageError, match="two patients"):
        rmia(np.zeros(4), np.zeros((2, 4)), np.array([True, False, False, False]))
    with pytest.raises(UsageError, match="members and others"):
        roc(np.zeros(4), np.ones(4, np.bool_))
