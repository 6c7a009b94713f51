"""What hospitals that collude with the coordinator see: the sum without what they know, and epsilon against them.

Colluders know their own contributions, noise included, and subtract them. If the noise of others depends on theirs,
they know that too: the part of it that follows from a colluder's own noise, by linear regression, is subtracted as
well. With independent noise there is no such part.
"""

import math
from dataclasses import dataclass

import numpy as np

from fedmodels.audit.design import Floats
from fedmodels.audit.evidence import Evidence
from fedmodels.audit.refuted import refuted
from fedmodels.audit.steps import Measured, epsilon_of, measure_traces


@dataclass(frozen=True)
class View:
    """What the coordinator sees with so many colluding hospitals. noise, shift: confidence bounds on a step of what is
    left, in units of C (see `steps.Measured`); epsilon: at least, with that confidence; claimed: by the ledgers, None
    where the study promises nothing against so many."""

    colluders: int
    noise: float
    shift: float
    epsilon: float
    claimed: float | None


def view(evidence: Evidence, colluders: int, confidence: float) -> View:
    """The coordinator together with the `colluders` hospitals that follow a canary's own in the roster."""
    measured = _measured(evidence, colluders, confidence)
    claimed = evidence.epsilon() if colluders <= evidence.colluders else None
    return View(colluders, measured.noise, measured.shift, epsilon_of(measured, evidence.plan.delta), claimed)


def colluders_epsilon(evidence: Evidence, level: float) -> tuple[float, str]:
    """The check: as many colluders as the promise is against (at least one is looked at) learn no more than it says."""
    if evidence.colluders < 1:
        return 1.0, "the study promises nothing against colluders"
    return refuted(evidence, _measured(evidence, evidence.colluders, 1.0 - level))


def _measured(evidence: Evidence, colluders: int, confidence: float) -> Measured:
    return measure_traces(evidence, without_known_noise(evidence, colluders), confidence)


def without_known_noise(evidence: Evidence, colluders: int) -> Floats:
    """[T, free] traces that the colluders see, without what follows from their own noise.

    In each round, and for each hospital whose canaries are looked for, one colluder's noise is the regressor. The
    coefficient costs one of as many degrees of freedom as there are canaries that were not drawn; what is left is
    scaled up for it.
    """
    free = evidence.design.free
    traces, known = evidence.traces(colluders)[:, :free], evidence.known(colluders)
    for hospital in range(evidence.hospitals):
        at = np.flatnonzero(evidence.design.owner[:free] == hospital)
        for number in np.flatnonzero(known[:, hospital].any(axis=1)):
            noise = evidence.own[number, int(np.argmax(known[number, hospital])), at].astype(np.float64)
            seen, still = traces[number, at], evidence.exposure[number, at] == 0.0
            power, count = float((noise[still] ** 2).sum()), int(still.sum())
            if power and count > 1:
                rest = seen - float((noise * seen)[still].sum()) / power * noise
                traces[number, at] = np.where(still, rest * math.sqrt(count / (count - 1)), rest)
    return traces
