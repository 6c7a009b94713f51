"""Which other unit the values of a variable look like, when they do not lie where the study expects them.

Factors are the usual conversions between conventional and SI units of clinical chemistry (molar masses: glucose 180.16,
creatinine 113.12, cholesterol 386.65, bilirubin 584.66, lactate 90.08, urea nitrogen 28.01 g/mol) and of the bedside.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Conversion:
    """What a value in one unit has to be multiplied with, after `offset` was taken off, to be in the other.

    of: pattern of the names of variables; one without a name applies to every variable.
    """

    of: str
    unit: str
    other: str
    factor: float
    offset: float = 0.0


_NAMED = (
    Conversion(r"gluc", "mmol/L", "mg/dL", 18.016),
    Conversion(r"creat", "µmol/L", "mg/dL", 1 / 88.4),
    Conversion(r"chol|ldl|hdl", "mmol/L", "mg/dL", 38.67),
    Conversion(r"triglyc", "mmol/L", "mg/dL", 88.57),
    Conversion(r"bili", "µmol/L", "mg/dL", 1 / 17.1),
    Conversion(r"bun|urea", "mmol/L", "mg/dL", 2.801),
    Conversion(r"lact", "mg/dL", "mmol/L", 1 / 9.008),
    Conversion(r"calc|^ca$", "mmol/L", "mg/dL", 4.008),
    Conversion(r"^mg$|magnes", "mmol/L", "mg/dL", 2.431),
    Conversion(r"alb|h(a)?emoglob|^hb$|^hgb$|prot", "g/L", "g/dL", 0.1),
    Conversion(r"temp", "°F", "°C", 5 / 9, 32.0),
    Conversion(r"abp|^map$|nimap|pres|^bp|trestbps|pa?co2|pa?o2", "kPa", "mmHg", 7.50062),
    Conversion(r"weight", "lb", "kg", 0.45359237),
    Conversion(r"height", "in", "cm", 2.54),
    Conversion(r"height", "m", "cm", 100.0),
    Conversion(r"fio2|sao2|spo2|hct|h(a)?ematocrit|percent|frac", "per cent", "a fraction", 0.01),
)
_SCALES = tuple(
    Conversion("", f"a unit {text} as small", f"one {text} as large", 1 / factor)
    for factor, text in ((10.0, "10 times"), (100.0, "100 times"), (1000.0, "1,000 times"))
)
_INSIDE, _OUTSIDE = 0.95, 0.5
_HEAP, _FAR = 20, 5.0


def looks_like(name: str, values: npt.NDArray[np.float64], low: float, high: float) -> str:
    """A hint in words, or "" when no conversion explains the values.

    One explains them if at least 95 % come to lie within the range, while less than half do now. Conversions that are
    usual for the name are tried before powers of ten. Values of which a part is in another unit fall into two heaps.
    """
    if not len(values):
        return ""
    if _within(values, low, high) >= _OUTSIDE:
        return _mixture(name, values, low, high)
    for conversion in (*_NAMED, *_SCALES):
        if not re.search(conversion.of, name, re.IGNORECASE):
            continue
        there = (values - conversion.offset) * conversion.factor
        back = values / conversion.factor + conversion.offset
        if _within(there, low, high) >= _INSIDE:
            return f"looks like {conversion.unit}, and the study like {conversion.other}"
        if _within(back, low, high) >= _INSIDE:
            return f"looks like {conversion.other}, and the study like {conversion.unit}"
    return ""


def _mixture(name: str, values: npt.NDArray[np.float64], low: float, high: float) -> str:
    """A hint where the values beyond one edge are apart from all others and come inside by a usual conversion.

    Apart: 95 % of each are on their side of a gap as wide as the square root of the factor. Units that differ by less
    than a factor of five make heaps that overlap.
    """
    inside = values[(values >= low) & (values <= high)]
    for outside, near, far in ((values[values < low], 0.95, 0.05), (values[values > high], 0.05, 0.95)):
        if len(outside) < max(_HEAP, 0.01 * len(values)) or len(inside) < _HEAP or low < 0 or outside.min() <= 0:
            continue
        gap = abs(float(np.log(np.quantile(inside, far) / np.quantile(outside, near))))
        for conversion in _NAMED:
            if conversion.offset or not re.search(conversion.of, name, re.IGNORECASE):
                continue
            factor = max(conversion.factor, 1 / conversion.factor)
            there = outside * factor if near > far else outside / factor
            if factor >= _FAR and gap >= np.log(factor) / 2 and _within(there, low, high) >= _INSIDE:
                part = len(outside) / len(values)
                return (
                    f"has two heaps, as if {part:.0%} were in {conversion.unit} or {conversion.other} and the rest not"
                )
    return ""


def _within(values: npt.NDArray[np.float64], low: float, high: float) -> float:
    return float(((values >= low) & (values <= high)).mean())
