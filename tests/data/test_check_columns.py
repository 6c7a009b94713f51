"""Checks of columns against the study's public ranges and categories."""

import numpy as np
import pytest
from check_subjects import bad, found, measured, table

from fedmodels.data.checks.columns import sentinel
from fedmodels.data.checks.figures import marginal_figure
from fedmodels.data.checks.run import examine_records
from fedmodels.data.checks.units import looks_like

GLUCOSE = np.random.default_rng(1).gamma(9, 14, 400).clip(60, 290)


def test_a_column_that_is_never_there_is_found():
    assert found(table(400, values=np.nan))["missing"].verdict == "warn"
    some = found(table(400, values=np.where(np.arange(400) % 10, np.nan, 0.3)))["missing"]
    assert (some.verdict, "a 10%" in some.what) == ("ok", True)
    assert some.numbers["patients_with_a"] == 0.1


def test_a_constant_and_a_nearly_constant_column_are_found():
    assert "the same for everybody: a" in found(table(400, values=0.25))["constant"].what
    nearly = np.full(400, 0.25)
    nearly[7] = 0.5
    assert "a (1 of 400 differ)" in found(table(400, values=nearly))["constant"].what
    rare = np.where(np.arange(400) % 50, 0.25, 0.5)  # one in fifty: rare, but there
    assert found(table(400, values=rare))["constant"].verdict == "ok"
    only_if = np.where(np.arange(400) % 2, np.nan, 1.0)  # recorded only while it is on
    assert found(table(400, values=only_if))["constant"].verdict == "ok"


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("glucose", GLUCOSE / 18.016, "looks like mmol/L, and the study like mg/dL"),
        ("Creatinine", np.array([0.6, 0.9, 1.1, 3.0]) * 88.4, "looks like µmol/L"),
        ("Temp", np.array([36.5, 37.0, 38.8]) * 9 / 5 + 32, "looks like °F"),
        ("Weight", np.array([60, 75, 90]) * 2.2046, "looks like lb"),
        ("something", GLUCOSE * 1000, "1,000 times"),
        ("glucose", GLUCOSE, ""),
    ],
)
def test_a_unit_is_guessed_only_where_it_explains_the_values(name, values, says):
    ranges = {
        "glucose": (50, 300),
        "Creatinine": (0.3, 6),
        "Temp": (34, 40),
        "Weight": (40, 125),
        "something": (50, 300),
    }
    hint = looks_like(name, np.asarray(values, dtype=float), *ranges[name])
    assert says in hint
    assert bool(hint) == bool(says)


def test_values_in_another_unit_are_a_failure_with_a_hint():
    wrong = found(measured(50, 300, GLUCOSE / 18.016))["ranges"]
    assert wrong.verdict == "fail"
    assert "looks like mmol/L" in wrong.fix
    assert found(measured(50, 300, GLUCOSE))["ranges"].verdict == "ok"


def test_a_fifth_in_another_unit_is_found_as_a_second_heap():
    mixed = np.where(np.arange(400) % 5 == 0, GLUCOSE / 18.016, GLUCOSE)
    said = found(measured(50, 300, mixed))["ranges"]
    assert (said.verdict, "as if 20% were in mmol/L" in said.fix) == ("warn", True)


@pytest.mark.parametrize("high", [150, 180, 220])
def test_a_long_tail_beyond_the_range_is_not_taken_for_a_unit(high):
    tail = np.random.default_rng(2).lognormal(4.6, 0.4, 2000)
    said = found(measured(20, high, tail))["ranges"]
    assert (said.verdict, said.fix) == ("ok", "")
    assert said.numbers["outside_glucose"] == pytest.approx(float(((tail < 20) | (tail > high)).mean()), abs=1e-4)


def test_more_than_a_quarter_beyond_the_range_is_told():
    assert bad(measured(20, 110, np.random.default_rng(2).lognormal(4.6, 0.4, 2000)))["ranges"] == "warn"


@pytest.mark.parametrize(("mark", "of"), [(0.0, (150, 300)), (-1.0, (10, 50)), (999.0, (10, 200)), (-99.0, (0, 5))])
def test_a_number_that_means_not_known_is_found(mark, of):
    values = np.random.default_rng(3).uniform(*of, 300)
    assert sentinel(values) is None
    values[::20] = mark
    assert sentinel(values) == mark


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(300) % 3 == 0, 0.0, np.random.default_rng(4).exponential(1.5, 300).round(1)),  # oldpeak
        np.arange(300) % 4,  # grades from 0
        np.arange(300) % 2,  # a flag
        np.random.default_rng(5).integers(3, 16, 300),  # a coma scale
    ],
)
def test_a_true_zero_is_none(values):
    assert sentinel(values.astype(float)) is None


def test_codes_for_not_known_come_with_their_records():
    values = GLUCOSE.copy()
    values[[3, 40, 77, 200, 300]] = 0
    said = found(measured(0, 300, values))["codes for not known"]
    assert "glucose (0 in 1.2 %)" in said.what
    assert said.groups[0].tolist() == [3, 40, 77, 200, 300]


def test_values_squeezed_into_a_corner_of_the_range_are_found():
    narrow = 0.93 + 0.03 * np.random.default_rng(6).random(400)
    assert "a (inside, median at 9" in found(table(400, values=narrow))["drift"].what
    assert "a (at its lower edge" in found(table(400, values=narrow - 0.93))["drift"].what
    assert found(table(400))["drift"].verdict == "ok"
    flag = np.arange(400) % 2  # fills its range from edge to edge
    assert found(table(400, values=flag))["drift"].verdict == "ok"


def test_quantiles_are_shares_of_the_public_range():
    assert found(measured(0, 400, np.linspace(100, 300, 401)))["drift"].numbers["median_glucose"] == 0.5


def test_a_histogram_keeps_what_is_beyond_the_range_apart():
    (marginal,) = examine_records(measured(50, 300, [20, 40, 50, 50.1, 175, 300, 900])).marginals
    assert (marginal.bins[0], marginal.bins[1], marginal.bins[-2], marginal.bins[-1]) == (2, 2, 1, 1)
    assert sum(marginal.bins) == 7
    assert marginal.quantiles[1] == pytest.approx(0.1 / 250)
    assert marginal_figure(marginal).count('class="beyond"') == 2
