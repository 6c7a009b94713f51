"""Conversions against the factors that laboratories print, and units that nothing converts."""

from pathlib import Path

import numpy as np
import pytest
from data_files import read
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.data.units import conversion, implausible
from fedmodels.errors import DataError, FileError
from fedmodels.study_input import Column, SeriesInput, TableInput, Variable

HERE = Path("m.csv")


def converted(name, value, unit, wanted):
    factor, offset = conversion(name, unit, wanted, HERE)
    return value * factor + offset


@pytest.mark.parametrize(
    ("name", "value", "unit", "wanted", "expected", "digits"),
    [
        ("Temp", 98.6, "°F", "°C", 37.0, 9),
        ("Temp", 310.15, "K", "℃", 37.0, 9),
        ("Temp", 37.0, "C", "F", 98.6, 9),
        ("MAP", 100.0, "mmHg", "kPa", 13.332, 3),
        ("CVP", 10.0, "cmH2O", "mmHg", 7.356, 3),
        ("Weight", 100.0, "lb", "kg", 45.359237, 9),
        ("Height", 70.0, "in", "cm", 177.8, 9),
        ("FiO2", 21.0, "%", "fraction", 0.21, 9),
        ("HGB", 14.0, "g/dL", "g/L", 140.0, 9),
        ("Urine", 0.5, "L", "mL", 500.0, 9),
        ("WBC", 7.5, "×10^9/L", "K/µL", 7.5, 9),
        ("WBC", 7500.0, "/uL", "10*9/L", 7.5, 9),
        ("CRP", 1.0, "mg/dL", "mg/L", 10.0, 9),
        ("Glucose", 100.0, "mg/dL", "mmol/L", 5.55, 2),
        ("血糖", 5.0, "mmol/L", "mg/dL", 90.08, 2),
        ("Creatinine", 1.0, "mg / dL", "μmol/L", 88.4, 1),
        ("Bilirubin", 1.0, "mg/dL", "umol/L", 17.1, 1),
        ("BUN", 1.0, "mg/dL", "mmol/L", 0.357, 3),
        ("Urea", 1.0, "mg/dL", "mmol/L", 0.1665, 4),
        ("Lactate", 9.0, "mg/dL", "mmol/L", 0.999, 3),
        ("Uric_acid", 1.0, "mg/dL", "umol/L", 59.48, 2),
        ("Cholesterol", 100.0, "mg/dL", "mmol/L", 2.586, 3),
        ("Ca", 10.0, "mg/dL", "mmol/L", 2.495, 3),
        ("Mg", 1.0, "mg/dL", "mmol/L", 0.4114, 4),
        ("Phosphate", 1.0, "mg/dL", "mmol/L", 0.3229, 4),
        ("whatever", 3.0, "furlong", "FURLONG", 3.0, 9),
    ],
)
def test_a_conversion_gives_the_printed_value(name, value, unit, wanted, expected, digits):
    assert round(converted(name, value, unit, wanted), digits) == pytest.approx(expected, abs=0.5 * 10**-digits)


@given(
    st.floats(-1e3, 1e3),
    st.sampled_from([("C", "F"), ("kPa", "mmHg"), ("kg", "lb"), ("mg/dL", "mmol/L"), ("ug/L", "nmol/L")]),
)
def test_there_and_back_is_the_same_value(value, units):
    here, there = units
    assert converted("glucose", converted("glucose", value, here, there), there, here) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "unit", "wanted", "named", "known"),
    [
        ("HR", "furlong", "bpm", "`HR`: unknown unit furlong", "mmhg"),
        ("HR", "bpm", "beats", "`HR`: unknown unit beats", "bpm"),
        ("Temp", "kPa", "C", "kPa is a pressure, the study's C a temperature", "fahrenheit"),
        ("Novelty", "mg/dL", "mmol/L", "depends on the substance", "glucose, creatinine"),
        ("Glucose", "mmol/L", "mmHg", "mmol/L is a amount concentration", "kpa"),
    ],
)
def test_units_that_do_not_convert_are_refused_with_those_that_do(name, unit, wanted, named, known):
    with pytest.raises(DataError) as caught:
        conversion(name, unit, wanted, HERE)
    assert named in caught.value.what
    assert known in caught.value.fix


LONG = 'kind = "series-long"\npath = "m.csv"\noutcomes = "o.csv"\n[split]\ntest_fraction = 0.5\n'
INPUT = SeriesInput(
    (Variable("Temp", 30, 43, "C"), Variable("HR", 0, 200)), steps=1, statics=(Variable("Weight", 0, 100, "kg"),)
)
MEASURED = "patient,time,variable,value\na,0,Temp,98.6\na,0,HR,100\na,0,Weight,110.23113\n"


def test_measurements_and_statics_come_in_the_studys_units(tmp_path):
    binding = LONG + '[units]\nTemp = "°F"\nWeight = "lb"\n'
    data = read(tmp_path, INPUT, binding, m__csv=MEASURED, o__csv="patient,label\na,absent\n")
    assert data.x[0, 0].tolist() == pytest.approx([7 / 13, 1, 0, 0.5, 1, 0, 0.5, 0])
    assert data.notes == ()


def test_values_in_another_unit_than_the_studys_are_noticed(tmp_path):
    data = read(tmp_path, INPUT, LONG, m__csv=MEASURED, o__csv="patient,label\na,absent\n")
    (note,) = data.notes
    assert note.startswith("`Temp`: 1 of 1 values lie outside the study's range 30 to 43 C: check the unit")


def test_half_of_the_values_outside_is_not_yet_most(tmp_path):
    index, values = np.array([0, 0, 1, -1]), np.array([5.0, 99.0, 99.0, 99.0])
    variables = [Variable("A", 0, 10), Variable("B", 0, 10)]
    assert [note[:3] for note in implausible(variables, index, values)] == ["`B`"]


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ('Puls = "bpm"', "`units` names `Puls`, which the study"),
        ('HR = "bpm"', "does not say in which unit it wants it"),
    ],
)
def test_units_of_what_the_study_does_not_know_are_refused(tmp_path, units, named):
    with pytest.raises(DataError, match=named):
        read(tmp_path, INPUT, f"{LONG}[units]\n{units}\n", m__csv=MEASURED, o__csv="patient,label\na,absent\n")


def test_columns_of_a_table_have_units_too(tmp_path):
    binding = (
        'kind = "table"\npath = "t.csv"\nmissing = ["", "?"]\n[columns]\npatient = "row"\nlabel = "label"\n[split]\n'
    )
    binding += 'test_fraction = 0.5\n[units]\nglucose = "mg/dL"\n'
    input_ = TableInput((Column("glucose", low=0, high=10, unit="mmol/L"),))
    data = read(tmp_path, input_, binding, t__csv="label,glucose\nabsent,90.078\ndisease,?\n")
    assert data.x.tolist() == [pytest.approx([0.5, 0]), [0.5, 1]]
    wrong = binding.partition("[units]")[0]
    data = read(tmp_path, input_, wrong, t__csv="label,glucose\nabsent,90.078\ndisease,?\n")
    assert data.notes[0].startswith("`glucose`: 1 of 1 values lie outside")


def test_a_category_has_no_unit(tmp_path):
    with pytest.raises(ValueError, match="a category has no `unit`"):
        Column("sex", kind="category", values=("f", "m"), unit="kg")
    with pytest.raises(FileError, match="units"):
        read(tmp_path, INPUT, f"{LONG}[units]\nHR = 5\n")
