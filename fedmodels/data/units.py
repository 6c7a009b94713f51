"""Units of measurement: exact conversions from a hospital's unit to the study's, and signs of a wrong one.

Factors between units are those of NIST Special Publication 811 (2008, appendix B). Between mass and amount of substance
stands the molar mass, computed from the abridged standard atomic weights (IUPAC, Prohaska et al. 2022) of the substance
that the variable is named after. Urea nitrogen (BUN) in mass units is the nitrogen, two atoms of it in each urea.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmodels.errors import DataError
from fedmodels.study_input import Column, Variable

# Unit: (dimension, factor, offset), so that value * factor + offset is in the first unit of its dimension.
_UNITS: dict[str, tuple[str, float, float]] = {
    **dict.fromkeys(("c", "°c", "degc", "celsius"), ("temperature", 1.0, 0.0)),
    **dict.fromkeys(("f", "°f", "degf", "fahrenheit"), ("temperature", 5 / 9, -160 / 9)),
    "k": ("temperature", 1.0, -273.15),
    "kpa": ("pressure", 1.0, 0.0),
    "mmhg": ("pressure", 0.1333224, 0.0),
    "cmh2o": ("pressure", 0.0980665, 0.0),
    "kg": ("mass", 1.0, 0.0),
    "g": ("mass", 1e-3, 0.0),
    **dict.fromkeys(("lb", "lbs"), ("mass", 0.45359237, 0.0)),
    "m": ("length", 1.0, 0.0),
    "cm": ("length", 1e-2, 0.0),
    "mm": ("length", 1e-3, 0.0),
    "in": ("length", 0.0254, 0.0),
    "fraction": ("fraction", 1.0, 0.0),
    "%": ("fraction", 1e-2, 0.0),
    "l": ("volume", 1.0, 0.0),
    "ml": ("volume", 1e-3, 0.0),
    **dict.fromkeys(("/min", "1/min", "bpm"), ("rate", 1.0, 0.0)),
    **dict.fromkeys(("10^9/l", "10^3/ul", "k/ul"), ("count per volume", 1.0, 0.0)),
    **dict.fromkeys(("10^12/l", "10^6/ul", "m/ul"), ("count per volume", 1000.0, 0.0)),
    "/ul": ("count per volume", 1e-3, 0.0),
    **dict.fromkeys(("g/l", "mg/ml"), ("mass concentration", 1.0, 0.0)),
    "g/dl": ("mass concentration", 10.0, 0.0),
    "mg/dl": ("mass concentration", 1e-2, 0.0),
    **dict.fromkeys(("mg/l", "ug/ml"), ("mass concentration", 0.001, 0.0)),
    "ug/dl": ("mass concentration", 1e-5, 0.0),
    **dict.fromkeys(("ug/l", "ng/ml"), ("mass concentration", 1e-06, 0.0)),
    **dict.fromkeys(("ng/l", "pg/ml"), ("mass concentration", 1e-09, 0.0)),
    "mol/l": ("amount concentration", 1.0, 0.0),
    "mmol/l": ("amount concentration", 1e-3, 0.0),
    "umol/l": ("amount concentration", 1e-6, 0.0),
    "nmol/l": ("amount concentration", 1e-9, 0.0),
    "pmol/l": ("amount concentration", 1e-12, 0.0),
}
_C, _H, _N, _O = 12.011, 1.008, 14.007, 15.999
# Grams of what is weighed per mole of what is counted, and the names of variables that mean it.
_SUBSTANCES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (6 * _C + 12 * _H + 6 * _O, ("glucose", "glu", "blood glucose", "血糖", "葡萄糖")),
    (4 * _C + 7 * _H + 3 * _N + _O, ("creatinine", "crea", "cr", "scr", "肌酐", "血肌酐")),
    (33 * _C + 36 * _H + 4 * _N + 6 * _O, ("bilirubin", "total bilirubin", "tbil", "胆红素", "总胆红素")),
    (_C + 4 * _H + 2 * _N + _O, ("urea", "尿素")),
    (2 * _N, ("bun", "urea nitrogen", "blood urea nitrogen", "尿素氮")),
    (3 * _C + 6 * _H + 3 * _O, ("lactate", "lac", "乳酸")),
    (5 * _C + 4 * _H + 4 * _N + 3 * _O, ("uric acid", "ua", "尿酸")),
    (27 * _C + 46 * _H + _O, ("cholesterol", "total cholesterol", "chol", "ldl", "hdl", "胆固醇", "总胆固醇")),
    (40.078, ("calcium", "ca", "血钙")),
    (24.305, ("magnesium", "mg", "血镁")),
    (30.974, ("phosphate", "phosphorus", "血磷")),
)
_MOLAR_MASS = {name: mass for mass, names in _SUBSTANCES for name in names}
_MOSTLY = 0.5


def conversions(
    variables: Sequence[Variable | Column], units: Mapping[str, str], path: Path
) -> dict[str, tuple[float, float]]:
    """(factor, offset) by variable: value * factor + offset is in the study's unit. Variables without one are as is.

    units: unit of each variable in the data; of a variable that it does not name, the study's. `DataError` for a
    variable that the study does not have or has without unit, and for two units that do not convert.
    """
    found: dict[str, tuple[float, float]] = {}
    known = {variable.name: variable.unit for variable in variables}
    for name, unit in units.items():
        if name not in known:
            raise DataError(
                f"`units` names `{name}`, which the study does not have",
                where=str(path),
                fix="name the variable as the study does, or leave the line out",
            )
        if not known[name]:
            raise DataError(
                f"`units` gives `{name}` in {unit}, but the study does not say in which unit it wants it",
                where=str(path),
                fix="ask for a `unit` in the study, or leave the line out if the study's range fits the data",
            )
        found[name] = conversion(name, unit, known[name], path)
    return found


def conversion(variable: str, unit: str, wanted: str, path: Path) -> tuple[float, float]:
    """(factor, offset) from `unit` to `wanted`; `DataError` says which units convert where these two do not."""
    if _spelt(unit) == _spelt(wanted):
        return 1.0, 0.0
    for name in (unit, wanted):
        if _spelt(name) not in _UNITS:
            raise DataError(
                f"`{variable}`: unknown unit {name}",
                where=str(path),
                fix=f"convert before the export; known units are {', '.join(_UNITS)}",
            )
    (here, factor, offset), (there, wanted_factor, wanted_offset) = _UNITS[_spelt(unit)], _UNITS[_spelt(wanted)]
    if {here, there} == {"mass concentration", "amount concentration"}:
        mass = _molar_mass(variable, unit, wanted, path)
        factor *= 1 / mass if here == "mass concentration" else mass
    elif here != there:
        same = [name for name, (dimension, _, _) in _UNITS.items() if dimension == there]
        raise DataError(
            f"`{variable}`: {unit} is a {here}, the study's {wanted} a {there}",
            where=str(path),
            fix=f"correct `units`; what converts to {wanted} is {', '.join(same)}",
        )
    return factor / wanted_factor, (offset - wanted_offset) / wanted_factor


def implausible(
    names: Sequence[Variable | Column], index: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> list[str]:
    """One sentence per variable of whose values most lie outside the study's range, as those in a wrong unit do.

    index, values: [n] variable of each measured value (negative: of none) and the value in the study's unit.
    """
    said = []
    for number, variable in enumerate(names):
        mine = values[index == number]
        outside = int(((mine < variable.low) | (mine > variable.high)).sum())
        if outside > _MOSTLY * len(mine):
            said.append(
                f"`{variable.name}`: {outside} of {len(mine)} values lie outside the study's range {variable.low:g} to "
                f"{variable.high:g} {variable.unit}".rstrip()
                + ": check the unit, and `[units]` in the data binding"
            )
    return said


def _spelt(unit: str) -> str:
    """One spelling of a unit: no spaces, no capitals, `u` for micro."""
    plain = unicodedata.normalize("NFKC", unit).casefold().replace(" ", "").replace("μ", "u")
    return plain.replace("mcg", "ug").replace("10*", "10^").removeprefix("×")


def _molar_mass(variable: str, unit: str, wanted: str, path: Path) -> float:
    name = variable.casefold().replace("_", " ").strip()
    if name not in _MOLAR_MASS:
        raise DataError(
            f"`{variable}`: from {unit} to {wanted} depends on the substance, and this is none that is known",
            where=str(path),
            fix=f"convert before the export; known substances are {', '.join(names[0] for _, names in _SUBSTANCES)}",
        )
    return _MOLAR_MASS[name]
