"""The operating point: from which probability on the second of two labels is predicted, chosen on secure counts.

A threshold that was chosen on records looks better on them than it is. Halving the patients, one half to choose and
one to measure, was measured against choosing on all and correcting by the bootstrap (Efron 1983; Harrell 2015, section
5.3): with Youden's index and 200 test patients without noise the balanced accuracy was 0.021 too good uncorrected
(root mean square error 0.031), 0.007 corrected (0.026), 0.003 with halves (0.035), which also choose worse
thresholds, with noise much worse. So nothing is halved, and what is told of a chosen threshold comes with its optimism.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmodels.evaluation.calibration import enough
from fedmodels.evaluation.noise import Noise, smoothed
from fedmodels.evaluation.scores import Floats

Rule = Literal["half", "youden", "specificity"]
Cuts = npt.NDArray[np.intp]


def chosen_cut(head: Floats, rule: Rule, specificity: float, noise: Noise) -> int:
    """The first bin of a histogram [2, bins] in which the second label is predicted, 1 to bins - 1.

    `youden`: the largest sum of sensitivity and specificity (Youden 1950); `specificity`: the lowest with at least this
    one; `half`: 0.5, as with too few records to choose on.
    """
    if rule == "half" or not enough(head, noise):
        return len(head[0]) // 2
    return int(best_cuts(smoothed(head)[None], rule, specificity)[0])


def best_cuts(heads: Floats, rule: Rule, specificity: float) -> Cuts:
    """[n] cuts of histograms [n, 2, bins] without negative counts, of rule `youden` or `specificity`."""
    sensitivities, specificities = rates(heads)
    if rule == "youden":
        return np.asarray((sensitivities + specificities).argmax(1) + 1)
    good = specificities >= specificity
    return np.asarray(np.where(good.any(1), good.argmax(1), good.shape[1] - 1) + 1)


def rates(heads: Floats) -> tuple[Floats, Floats]:
    """(sensitivity, specificity) [n, bins - 1] at the cuts 1 to bins - 1 of histograms [n, 2, bins]; 0 if undefined."""
    totals = np.maximum(heads.sum(2, keepdims=True), 1.0)
    below = np.cumsum(heads, axis=2)[:, :, :-1] / totals
    return (heads[:, 1].sum(1) / totals[:, 1, 0])[:, None] - below[:, 1], below[:, 0]


def optimism(replicates: Floats, head: Floats, rule: Rule, specificity: float) -> dict[str, float]:
    """How much sensitivity, specificity and their mean at a chosen cut are too good, by name.

    replicates: [n, 2, bins] drawn like the counts `head` [2, bins]; none of them negative. Each chooses its own cut,
    which is better on itself than on `head`: the mean difference.
    """
    if rule == "half":
        return {}
    cuts = best_cuts(replicates, rule, specificity) - 1
    own, there = rates(replicates), rates(head[None])
    rows = np.arange(len(cuts))
    gain = [float((mine[rows, cuts] - theirs[0, cuts]).mean()) for mine, theirs in zip(own, there, strict=True)]
    return {"sensitivity": gain[0], "specificity": gain[1], "balanced_accuracy": sum(gain) / 2}
