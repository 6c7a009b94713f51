"""The data sets of `fedmodels bench utility`, with their hospitals and training constants.

The constants of mode `distributed` are the same for all: the ones that `fedmodels study new` writes. Those of mode
`local`, which has no such set, are each problem's own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.errors import UsageError
from fedmodels.settings import apply_settings, for_mode
from fedmodels.study import Study, parse_study
from simulations.benchmarks import rows, studies
from simulations.digits import digits_study
from simulations.partition import Partition

_DIGITS = 10
_DIGITS_TEST = 360

Parts = dict[str, Dataset]


@dataclass(frozen=True, repr=False)
class Case:
    """A problem at one seed: a study, and the records of its hospitals."""

    study: Study
    parts: Parts


Load = Callable[[tuple[str, ...], int], Case]


@dataclass(frozen=True)
class Problem:
    """load: the records of the hospitals for settings of the study and a seed. metric: `accuracy` or `auroc`.

    settings: by mode, what differs from the study. allowed_loss: by epsilon, how far below pooled training without
    privacy mode `distributed` may end. seeds: how many make the standard error small enough.
    """

    name: str
    hospitals: int
    metric: str
    seeds: int
    load: Load
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    allowed_loss: dict[float, float] = field(default_factory=dict)

    def case(self, seed: int, mode: str, settings: tuple[str, ...]) -> Case:
        """The problem in a privacy mode."""
        return self.load((*for_mode(mode), *self.settings.get(mode, ()), *settings), seed)


def _bundled(name: str, partition: Partition) -> Load:
    def load(settings: tuple[str, ...], seed: int) -> Case:
        case = studies.prepare(name, rows.Row(name, settings, partition=partition), seed)
        return Case(case.study, case.parts)

    return load


def _digits(settings: tuple[str, ...], seed: int) -> Case:
    """Handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998, as in scikit-learn), dealt out to ten hospitals."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("scikit-learn is not installed", fix="pip install 'fedmodels[bench]'") from None
    study = parse_study(apply_settings(digits_study(_DIGITS), [*settings, f"training.seed={seed}"]), "digits")
    pixels, labels = load_digits(return_X_y=True)
    x = np.zeros((len(labels), feature_count(study.input)), np.float32)
    x[:, :64] = pixels / 8.0 - 1.0
    names = np.char.add("image-", np.arange(len(labels)).astype(str))
    order = np.random.default_rng(seed).permutation(len(labels))
    split = np.full(len(labels), TRAIN, np.uint8)
    split[order[:_DIGITS_TEST]] = TEST
    whole = Dataset(names, x, labels.astype(np.int64), split)
    dealt = [order[i::_DIGITS] for i in range(_DIGITS)]
    return Case(study, {f"hospital-{i:02d}": whole.take(np.sort(own)) for i, own in enumerate(dealt, 1)})


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(
            "digits", _DIGITS, "accuracy", 20, _digits,
            {
                "none": ("training.local_steps=5", "training.learning_rate=0.3", "training.momentum=0.9"),
                "local": ("training.rounds=30", "training.batch_rate=0.5", "training.learning_rate=1.0"),
            },
            {3.0: 0.03, 8.0: 0.02},
        ),
        Problem(
            "heart_disease", 4, "accuracy", 20, _bundled("heart_disease", Partition()),
            {"local": rows.HEART_PRIVATE}, {3.0: 0.03, 8.0: 0.02},
        ),
        Problem(
            "pneumonia", 4, "auroc", 5, _bundled("pneumonia", Partition(0.5)),
            {"local": rows.PNEUMONIA_PRIVATE}, {8.0: 0.02},
        ),
        Problem(
            "icu_mortality", 4, "auroc", 20, _bundled("icu_mortality", Partition()),
            {
                "none": rows.ICU_POOLED, "local": rows.ICU_PRIVATE,
                "distributed": ('model.sizes.pool="last"',),  # the largest state of 48 is largely noise
            },
        ),
    )
}  # fmt: skip
