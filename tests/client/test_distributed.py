"""Mode `distributed` at the hospitals: noise in opened sums, sensitivity, public divisor; each beside a broken variant.

Noise is that of production, keyed by the operating system, and sums are opened by the real protocol. What a check of
random numbers would refuse by chance is said beside it.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from secure_sums import Hospitals, distributed_study, nobody, patients

from client import contribution
from client.training import gradient_sum
from fedmodels import packing
from fedmodels.data.dataset import Dataset
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.errors import LocalProtocolError
from fedmodels.study import Study

WIDE = distributed_study("model.sizes={ hidden = [16000] }")  # some 160,000 coordinates: as many draws a sum
EVERYONE = Plan(
    sampling_rate=1.0, clip=1.0, noise_multiplier=2.0, steps_per_release=1, releases=10, delta=1e-5, mode="distributed"
)
SMALL = distributed_study()
KEY = bytes(32)


@pytest.fixture(scope="module")
def wide() -> Hospitals:
    return Hospitals(WIDE, plan=EVERYONE)


def deviation(hospitals: Hospitals, members: tuple[str, ...], lost: tuple[str, ...] = ()) -> float:
    """Of the noise in opened sums over hospitals without patients, in units of the noise multiplier times the clip.

    More than 300,000 draws: 1% is eight standard errors, and is exceeded by chance in one of 10^14 runs.
    """
    data = dict.fromkeys(members, nobody(hospitals.study))
    draws = [hospitals.opened(hospitals.vectors(data), lost).view(np.int32) for _ in range(2)]
    assert np.size(draws) > 300_000
    assert hospitals.packing.lattice.scale > 1e5  # so that rounding adds nothing to the sensitivity here
    plan = hospitals.plan
    return float(np.std(draws) / (hospitals.packing.lattice.scale * plan.noise_multiplier * plan.clip))


MARGIN = 1 + 1 / 256  # of the sensitivity, for floating-point sums


def is_planned(found: float, members: int, certain: int) -> bool:
    return bool(found == pytest.approx(MARGIN * np.sqrt(members / certain), rel=0.01))


def test_opened_sums_carry_the_planned_noise_without_the_colluders_share(wide: Hospitals) -> None:
    """Of four and, after a dropout, of three hospitals, one of which may collude: sigma comes from three and two."""
    assert is_planned(deviation(wide, wide.names), 4, 3)
    assert is_planned(deviation(wide, wide.names[1:]), 3, 2)


def test_the_check_of_the_noise_sees_a_share_of_all_hospitals(wide: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "certain_shares_retry", lambda roster, colluders: roster)
    assert not is_planned(deviation(wide, wide.names), 4, 3)


def test_the_check_of_the_noise_sees_less_noise_and_noise_left_out(
    wide: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hospital 3% less, or one of four none at all."""
    real, calls = packing.LatticeMechanism.share, itertools.count()
    for factor in (lambda: 0.97, lambda: next(calls) % 4 > 0):

        def less(
            self: packing.LatticeMechanism, source: SecureSource, factor: Callable[[], float] = factor
        ) -> np.ndarray:
            return np.rint(real(self, source) * factor()).astype(np.int64)

        monkeypatch.setattr(packing.LatticeMechanism, "share", less)
        assert not is_planned(deviation(wide, wide.names), 4, 3)


def test_a_recover_sum_has_the_planned_noise_also_after_the_most_dropouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven hospitals, five in every sum, one may collude: m = 2 * 5 - 7 - 1 = 2. The control plans for the five."""
    hospitals = Hospitals(
        distributed_study(
            "model.sizes={ hidden = [16000] }", "federation.on_dropout=recover", "federation.hospitals=7"
        ),
        plan=EVERYONE,
    )
    assert hospitals.study.threshold == 5
    for lost in ((), hospitals.names[2:4]):
        assert is_planned(deviation(hospitals, hospitals.names, lost), 7 - len(lost), 2)
    monkeypatch.setattr(packing, "certain_shares_recover", lambda hospitals, threshold, colluders: threshold)
    assert not is_planned(deviation(hospitals, hospitals.names), 7, 2)


def largest_correlation(vectors: list[np.ndarray]) -> float:
    """Between any two; 0.02 is eight standard errors of independent noise."""
    noise = np.array([vector.view(np.int32) for vector in vectors])
    return float(np.abs(np.corrcoef(noise) - np.eye(len(noise))).max())


def test_noise_is_independent_between_hospitals_and_rounds(wide: Hospitals, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> list[np.ndarray]:
        """Two rounds of two hospitals."""
        return [wide.vector(name, nobody(WIDE), 4) for _ in range(2) for name in wide.names[:2]]

    assert largest_correlation(drawn()) < 0.02
    monkeypatch.setattr(contribution, "SecureSource", lambda: SecureSource(KEY))  # the same seed at every hospital
    assert largest_correlation(drawn()) > 0.99
    assert not is_planned(deviation(wide, wide.names), 4, 3)  # equal shares add up without their roots
    counter = itertools.count()
    seeds = (bytes([next(counter) % 2]) * 32 for _ in itertools.repeat(0))
    monkeypatch.setattr(contribution, "SecureSource", lambda: SecureSource(next(seeds)))  # one for each hospital
    rounds = drawn()
    assert largest_correlation(rounds[:2]) < 0.02
    assert largest_correlation(rounds) > 0.99


def test_a_hospital_without_patients_contributes_noise_of_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal noise, what is left of a hospital with patients is their gradients; the control draws less noise."""
    hospitals = Hospitals(SMALL, plan=EVERYONE)
    data = patients(SMALL, 30)
    monkeypatch.setattr(contribution, "SecureSource", lambda: SecureSource(KEY))

    def rest() -> float:
        apart = hospitals.vector("h00", data, 4) - hospitals.vector("h00", nobody(SMALL), 4)
        gradient = gradient_sum(SMALL, hospitals.model, data, EVERYONE)
        return float(np.abs(apart.view(np.int32) / hospitals.packing.lattice.scale - gradient).max())

    assert rest() < 1e-4
    pack = packing.GradientPacking.pack

    def stingy(self: packing.GradientPacking, gradient: np.ndarray, contributors: int, source: SecureSource) -> object:
        return pack(self, gradient, contributors if gradient.any() else 10 * contributors, source)

    monkeypatch.setattr(packing.GradientPacking, "pack", stingy)
    assert rest() > 0.1


def test_a_hospital_refuses_to_contribute_where_the_sum_could_wrap_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a lattice that leaves no room for noise; without the check the vector would leave."""
    plan = replace(EVERYONE, noise_multiplier=3.0, sampling_rate=1e-6)

    def contributes() -> bool:
        return bool(Hospitals(SMALL, plan=plan).vector("h00", nobody(SMALL), 4).any())

    assert contributes()
    monkeypatch.setattr(packing, "_NOISE_DEVIATIONS", 0)
    with pytest.raises(LocalProtocolError, match="wrap around"):
        contributes()
    monkeypatch.setattr(packing.GradientPacking, "check_room", lambda *_: None)
    assert contributes()


def test_one_more_patient_changes_nothing_but_by_its_own_clipped_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """320 or 321 patients, noise equal. The controls: sums, and noise, that depend on how many there are."""
    hospitals = Hospitals(SMALL, plan=EVERYONE)
    everyone = patients(SMALL, 321)
    own = gradient_sum(SMALL, hospitals.model, everyone.take([320]), EVERYONE)
    others = dict.fromkeys(hospitals.names[1:], nobody(SMALL))
    assert 0.1 < np.linalg.norm(own) <= EVERYONE.clip

    def mean(data: Dataset) -> np.ndarray:
        return hospitals.gradient(hospitals.opened(hospitals.vectors({"h00": data, **others})))

    def rest() -> float:
        """Of the difference of two opened means, in units of their public divisor 4 * 100."""
        return float(np.abs((mean(everyone) - mean(everyone.take(range(320)))) * 400 - own).max())

    monkeypatch.setattr(contribution, "SecureSource", lambda: SecureSource(KEY))
    assert rest() < 1e-4
    with monkeypatch.context() as broken:
        broken.setattr(contribution, "gradient_sum", lambda *a: gradient_sum(*a) * (100 / max(1, len(a[2]))))
        assert rest() > 0.1
    share = packing.LatticeMechanism.share
    sizes = iter([320 / 321, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(
        packing.LatticeMechanism, "share", lambda self, source: np.rint(share(self, source) * next(sizes))
    )
    assert rest() > 1e-3


def with_extreme_patient() -> Dataset:
    """20 patients; the last one's features are a million times too large, and on the wrong side of its label.

    On the right side the loss is exactly flat there, and a bound on the patient's gradient would say nothing.
    """
    data, model = patients(SMALL, 20), Hospitals(SMALL, plan=EVERYONE).model
    x = np.concatenate([data.x[:-1], data.x[-1:] * 1e6])
    for label in (0, 1):
        extreme = replace(data, x=x, y=np.append(data.y[:-1], label))
        if gradient_sum(SMALL, model, extreme.take([19]), EVERYONE).any():
            return extreme
    raise AssertionError


def test_a_patient_scaled_by_a_million_moves_a_sum_by_at_most_the_clip() -> None:
    """And the vector of integers by at most the sensitivity that noise is planned for. The control: no clip."""
    extreme, hospitals = with_extreme_patient(), Hospitals(SMALL, plan=EVERYONE)

    def moved(sums: Callable[[Dataset], np.ndarray]) -> float:
        return float(np.linalg.norm(sums(extreme) - sums(extreme.take(range(19)))))

    def integers(sums: Callable[[Dataset], np.ndarray]) -> float:
        return moved(lambda data: hospitals.packing.lattice.encode(sums(data))[0].view(np.int32).astype(np.float64))

    def clipped(data: Dataset) -> np.ndarray:
        return gradient_sum(SMALL, hospitals.model, data, EVERYONE)

    def unclipped(data: Dataset) -> np.ndarray:
        return gradient_sum(SMALL, hospitals.model, data, replace(EVERYONE, clip=1e12))

    sensitivity = hospitals.packing.mechanism(4).sensitivity
    assert 0.99 < moved(clipped) <= 1.0 + 1e-4
    assert 0.9 * sensitivity < integers(clipped) <= sensitivity
    assert moved(unclipped) > 100.0
    assert integers(unclipped) > 10 * sensitivity


def clipped_sum(study: Study, data: Dataset) -> np.ndarray:
    return gradient_sum(study, Hospitals(study, plan=EVERYONE).model, data, EVERYONE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_record_whose_gradient_is_not_a_number_contributes_nothing(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And raises nothing: an error would tell, without noise, that there is such a patient."""
    data = patients(SMALL, 20)
    x = data.x.copy()
    x[-1, 0] = value
    broken = replace(data, x=x)
    without = clipped_sum(SMALL, data.take(range(19)))
    assert clipped_sum(SMALL, broken) == pytest.approx(without, abs=1e-5)
    assert np.abs(clipped_sum(SMALL, data) - without).max() > 0.01
    hospitals = Hospitals(SMALL, plan=EVERYONE)
    hospitals.vector("h00", broken, 4)
    monkeypatch.setattr(contribution, "gradient_sum", lambda *a: gradient_sum(*a) + np.where(len(a[2]), value, 0.0))
    with pytest.raises(LocalProtocolError, match="NaN"):
        hospitals.vector("h00", broken, 4)


@pytest.mark.parametrize("label", [0, 1])
def test_a_record_that_overflows_contributes_at_most_the_clip(label: int) -> None:
    data = patients(SMALL, 20)
    x = data.x.copy()
    x[-1] = 3e38
    sums = clipped_sum(SMALL, replace(data, x=x, y=np.append(data.y[:-1], label)))
    assert np.linalg.norm(sums - clipped_sum(SMALL, data.take(range(19)))) <= 1.0 + 1e-4  # false where it is NaN
