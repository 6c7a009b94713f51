"""The step-level bound: what the noise and a patient's influence on every single release really are.

A release is one number for each canary: noise, plus the canary's clipped gradient where its batches drew it. Their
deviation and its size are measured over all canaries and rounds, each with a one-sided confidence bound on the side of
less privacy claimed, and put through the accountant that the ledgers use, as an optimistic bound.

Noise is measured in what the observer sees. A canary's influence is measured in what its own hospital contributed,
where less noise is in the way: an auditor has that, and a secure sum adds the contributions up exactly (a check).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import beta, chi2, norm

from fedmodels.audit.bounds import Bound
from fedmodels.audit.design import Floats
from fedmodels.audit.evidence import Evidence
from fedmodels.dp.accounting import SampledGaussian, epsilon_lower
from fedmodels.errors import PrivacyError

# Parts of the error probability; the rest is for the shift, which is the hard part.
_PART_OF_NOISE = _PART_OF_RATE = 0.1
_PART_OF_SHARE = 0.05
_LEAST_RATIO = 0.02  # of noise to shift: what is below is told as this, an epsilon of about 1,000
_ACCOUNTED = 0.2  # ratios from here on go through the accountant, which takes long below


@dataclass(frozen=True)
class Measured:
    """One-sided confidence bounds on a step of the mechanism, which hold together with probability `confidence`.

    noise: above its deviation in units of C; shift: below the length of a patient's influence in the same unit; rate:
    below the sampling rate; steps: batches of each hospital that were counted.
    """

    noise: float
    shift: float
    rate: float
    steps: int
    confidence: float


def measure(evidence: Evidence, colluders: int, confidence: float, rounds: int | None = None) -> Measured:
    """The mechanism in the first `rounds`, seen by the coordinator together with this many hospitals."""
    return measure_traces(evidence, evidence.traces(colluders), confidence, rounds)


def measure_traces(evidence: Evidence, traces: Floats, confidence: float, rounds: int | None = None) -> Measured:
    """The same from traces [T, k] as somebody else sees them."""
    free, rounds = evidence.design.free, rounds or evidence.rounds
    error = 1.0 - confidence
    x = evidence.exposure[:rounds, :free]
    power = float((x**2).sum())
    if power == 0.0:
        raise PrivacyError("no canary was ever drawn", fix="audit more rounds, or with more canaries")
    noise = _most_noise(traces[:rounds, :free][x == 0.0], error * _PART_OF_NOISE)
    own, there = evidence.contributed(rounds)
    share = _most_noise(own[(x == 0.0) & there], error * _PART_OF_SHARE)
    left = error * (1.0 - _PART_OF_NOISE - _PART_OF_RATE - _PART_OF_SHARE)
    shift = float((x * own).sum()) / power + float(ndtri(left)) * share / math.sqrt(power)
    return Measured(noise, max(0.0, shift), _least_rate(evidence, error * _PART_OF_RATE), _steps(evidence, rounds),
                    confidence)  # fmt: skip


def _most_noise(still: Floats, error: float) -> float:
    """Above the deviation of Gaussians of mean 0, but for this probability; chi-squared."""
    if still.size < 2:
        raise PrivacyError("every canary was drawn in every round", fix="audit more rounds, or with more canaries")
    return math.sqrt(float((still**2).sum()) / float(chi2.ppf(error, still.size)))


def _least_rate(evidence: Evidence, error: float) -> float:
    """Clopper and Pearson 1934, over all canaries and batches of the whole run."""
    hits, trials = participation(evidence)
    return float(beta.ppf(error, hits, trials - hits + 1)) if hits else 0.0


def participation(evidence: Evidence) -> tuple[int, int]:
    """How often canaries were drawn, and how often they could have been."""
    design = evidence.design
    trials = sum(len(sizes) * len(design.members(h)) for h, sizes in enumerate(evidence.batches))
    return int(evidence.drawn.sum()), trials


def _steps(evidence: Evidence, rounds: int) -> int:
    """Batches that a hospital drew in the first `rounds`, at most."""
    taken = evidence.present[:rounds].sum(axis=0)
    every = evidence.present.sum(axis=0)
    return max(
        len(sizes) * int(part) // int(whole)
        for sizes, part, whole in zip(evidence.batches, taken.tolist(), every.tolist(), strict=True)
        if whole
    )


def epsilon_of(measured: Measured, delta: float) -> float:
    """Never above the epsilon of a Poisson-sampled Gaussian mechanism that is no less noisy than was measured."""
    if measured.shift == 0.0 or measured.rate == 0.0:
        return 0.0
    ratio = max(measured.noise / measured.shift, _LEAST_RATIO)
    least = epsilon_lower(SampledGaussian(measured.rate, max(ratio, _ACCOUNTED), measured.steps), delta)
    if ratio >= _ACCOUNTED:
        return least
    return max(least, _largest_trace(ratio, measured.rate, measured.steps, delta))


def _largest_trace(ratio: float, rate: float, steps: int, delta: float) -> float:
    """The epsilon that one test alone refutes: "is any of the T traces above a threshold?", at the best threshold.

    (epsilon, delta)-DP means P <= e^epsilon Q + delta for its probabilities P with the patient and Q without. Valid for
    any noise, and near the truth where there is hardly any.
    """
    threshold = np.linspace(0.0, 1.0, 201) / ratio
    hit = rate * ndtr(1.0 / ratio - threshold)
    inside = -np.expm1(steps * np.log1p(-hit)) - delta
    outside = math.log(steps) + norm.logsf(threshold)  # the union bound is above Q
    possible = inside > 0.0
    return max(0.0, float((np.log(inside[possible]) - outside[possible]).max())) if possible.any() else 0.0


def from_steps(evidence: Evidence, colluders: int, confidence: float, rounds: int | None = None) -> Bound:
    """The step-level bound as a `Bound`."""
    epsilon = epsilon_of(measure(evidence, colluders, confidence, rounds), evidence.plan.delta)
    return Bound(
        "step level", epsilon, confidence,
        "Gaussian noise, independent in all steps and coordinates; every local step counts as seen",
    )  # fmt: skip
