"""What a vector of mode `distributed` holds, on which lattice, beside how much noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmodels import packing as packings
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import LocalProtocolError, PrivacyError
from fedmodels.packing import GradientPacking, UpdatePacking

PLAN = Plan(
    sampling_rate=0.1, clip=2.0, noise_multiplier=1.5, steps_per_release=1, releases=10, delta=1e-5, mode="distributed"
)
SIZES = {f"h{i}": size for i, size in enumerate((100, 400, 90, 250))}
PACKING = GradientPacking(500, PLAN, SIZES, max_colluding=1, min_contributors=3, threshold=None)
NAMES = tuple(SIZES)


def gradients() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=PACKING.parameters).astype(np.float32) for name in SIZES}


def source(name: str) -> SecureSource:
    return SecureSource(name.encode().ljust(32, b"."))


def test_a_sum_decodes_to_the_mean_gradient_with_everybodys_noise() -> None:
    parts = gradients()
    shares = [PACKING.mechanism(4).share(source(name)) for name in NAMES]
    total = np.sum([PACKING.pack(parts[name], 4, source(name)) for name in NAMES], axis=0, dtype=np.uint32)
    found = PACKING.unpack(total, NAMES)
    scale, divisor = PACKING.lattice.scale, 0.1 * (100 + 400 + 90 + 250)
    noisy = np.sum([parts[name].astype(np.float64) for name in NAMES], axis=0) + np.sum(shares, axis=0) / scale
    assert -found.update * divisor == pytest.approx(noisy, abs=4 / (2 * scale))
    assert np.abs(np.sum(shares, axis=0) / scale).max() > 1.0  # or the tolerance would not see the noise
    three = PACKING.unpack(total, NAMES[1:]).update
    assert -three * 0.1 * (400 + 90 + 250) == pytest.approx(-found.update * divisor)


def test_the_noise_norm_that_is_told_is_that_of_the_noise_in_the_mean() -> None:
    """Of 40,000 coordinates, to within five standard errors: of four hospitals' noise, and of three."""
    packing = replace(PACKING, parameters=40_000)
    for names in (NAMES, NAMES[1:]):
        nothing = np.zeros(packing.parameters, np.float32)
        vectors = [packing.pack(nothing, len(names), source(name)) for name in names]
        found = packing.unpack(np.sum(vectors, axis=0, dtype=np.uint32), names)
        assert np.linalg.norm(found.update) == pytest.approx(found.noise_norm, rel=0.018)


def test_nothing_but_the_gradient_and_the_noise_rides_inside() -> None:
    """The control: an update's vector also tells a loss and how many numbers were clipped."""
    gradient = gradients()["h0"]
    vector = PACKING.pack(gradient, 4, source("h0"))
    noise = PACKING.mechanism(4).share(source("h0"))
    assert vector.shape == (PACKING.words,) == gradient.shape
    rest = vector.view(np.int32) - noise - np.rint(gradient.astype(np.float64) * PACKING.lattice.scale)
    assert not rest.any()
    found = PACKING.unpack(vector, NAMES)
    assert (found.loss, found.clipped) == (0.0, 0)

    update = UpdatePacking(gradient.size, 1e-3, SIZES)
    told = update.unpack(update.pack("h0", gradient, 0.75), ("h0",))
    assert update.words == gradient.size + 2
    assert told.loss == pytest.approx(0.75, abs=0.01)
    assert told.clipped > 300


@st.composite
def plans(draw: st.DrawFn) -> GradientPacking:
    """From a regression on nine features at three hospitals to 67 million parameters at two hundred."""
    hospitals = draw(st.integers(3, 200))
    colluding = draw(st.integers(0, hospitals - 2))
    least = draw(st.integers(colluding + 2, hospitals))
    safe = -(-(hospitals + colluding + 2) // 2)
    thresholds = st.integers(safe, hospitals) if safe <= hospitals else st.none()
    plan = replace(
        PLAN,
        sampling_rate=draw(st.floats(1e-4, 1.0)),
        clip=draw(st.floats(1e-3, 1e3)),
        noise_multiplier=draw(st.floats(0.3, 50.0)),
    )
    sizes = draw(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=5))
    roster = {f"h{i:03}": sizes[i % len(sizes)] for i in range(hospitals)}
    return GradientPacking(draw(st.integers(10, 1 << 26)), plan, roster, colluding, least, draw(st.none() | thresholds))


def fits(packing: GradientPacking) -> bool:
    """Whether no sum wraps around: everybody's batch six deviations large and pulling one way, noise of twelve.

    The sums are smaller where they would leave a clip below 100 to 200 times sqrt(D) lattice units.
    """
    hospitals, plan = len(packing.sizes), packing.plan
    expected = plan.sampling_rate * max(packing.sizes.values())
    coarsest = 2**31 / (2 * hospitals * 100 * math.sqrt(packing.parameters))
    largest = plan.clip * min(expected + 6 * math.sqrt(expected), coarsest)
    return largest <= packing.lattice.bound and all(
        members * (packing.lattice.scale * largest + 0.5) + packing.mechanism(members).headroom(members) < 2**31
        for members in (max(packing.min_contributors, packing.threshold or 0), hospitals)
    )


def is_fine(packing: GradientPacking) -> bool:
    """Whether rounding costs at most 2% of sensitivity, beside the 1/256 for floating-point sums."""
    units = packing.plan.clip * packing.lattice.scale
    rounding = packing.mechanism(len(packing.sizes)).sensitivity - units * (1 + 1 / 256)
    return rounding <= 0.02 * units + 3


def noise_is_small(packing: GradientPacking) -> bool:
    """Beside the sums that the coarsest lattice has room for: what the promise of `is_fine` presupposes."""
    shares = packing.mechanism(max(packing.min_contributors, packing.threshold or 0)).certain_shares
    noise = 13 * packing.plan.noise_multiplier * math.sqrt(len(packing.sizes) / shares)
    return noise <= 2**30 / (100 * math.sqrt(packing.parameters))


@settings(max_examples=300, deadline=None)
@given(plans())
def test_no_sum_wraps_around_and_the_lattice_stays_fine_for_any_plan(packing: GradientPacking) -> None:
    """None of these plans is refused, either."""
    assert fits(packing)
    assert is_fine(packing) or not noise_is_small(packing)
    for members in (max(packing.min_contributors, packing.threshold or 0), len(packing.sizes)):
        packing.check_room(members)


@pytest.mark.parametrize("contributors", [3, 4])
def test_where_a_sum_could_wrap_around_there_is_no_room(monkeypatch: pytest.MonkeyPatch, contributors: int) -> None:
    """A lattice that leaves no room for noise, and one as it should be: the same check says no and yes."""
    plan = replace(PLAN, noise_multiplier=3.0, sampling_rate=1e-6)
    replace(PACKING, plan=plan).check_room(contributors)
    monkeypatch.setattr(packings, "_NOISE_DEVIATIONS", 0)
    with pytest.raises(LocalProtocolError, match=f"noise of {contributors} hospitals .* wrap around"):
        replace(PACKING, plan=plan).check_room(contributors)


def test_a_lattice_without_room_for_noise_or_too_coarse_a_one_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def packing(**changes: float) -> GradientPacking:
        sizes = dict.fromkeys(SIZES, 10_000_000)
        return GradientPacking(1 << 24, replace(PLAN, **changes), sizes, 1, 3, None)

    noisy, large = packing(noise_multiplier=20.0, sampling_rate=1e-6), packing(sampling_rate=1.0)
    for each in (noisy, large):
        assert fits(each)
        assert is_fine(each)
    monkeypatch.setattr(packings, "_NOISE_DEVIATIONS", 0)
    assert not fits(packing(noise_multiplier=20.0, sampling_rate=1e-6))
    monkeypatch.undo()
    monkeypatch.setattr(packings, "_FINENESS", 1)
    assert not is_fine(packing(sampling_rate=1.0))


def test_a_share_grows_where_fewer_hospitals_take_part() -> None:
    """m = |U| - c: everything that a sum needs is in the shares of those who are in it, the colluding ones left out."""
    shares = {members: PACKING.mechanism(members) for members in (3, 4)}
    assert [shares[members].certain_shares for members in (3, 4)] == [2, 3]
    assert shares[3].share_sigma == pytest.approx(shares[4].share_sigma * math.sqrt(3 / 2))
    assert shares[3].event(5) == shares[4].event(5) == PLAN.event(5)
    assert {mechanism.scale for mechanism in shares.values()} == {PACKING.lattice.scale}


def test_in_a_recover_round_shares_are_for_the_worst_dropouts_whoever_is_asked() -> None:
    """m = 2t - n - c: what a coordinator that lies about dropouts cannot avoid."""
    sizes = {f"h{i}": 100 for i in range(10)}
    packing = GradientPacking(500, PLAN, sizes, max_colluding=3, min_contributors=5, threshold=8)
    assert {packing.mechanism(members).certain_shares for members in (8, 9, 10)} == {2 * 8 - 10 - 3}


@pytest.mark.parametrize("contributors", [0, 1])
def test_a_session_of_colluders_alone_is_refused(contributors: int) -> None:
    with pytest.raises(PrivacyError, match="at least 1 is needed"):
        PACKING.pack(gradients()["h0"], contributors, source("h0"))
