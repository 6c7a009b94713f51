"""Named checks of a run's evidence. Each says how probable it is that a correct implementation looks like this.

A check is flagged where that probability is below its level. Levels divide a family-wise error among all checks
(Bonferroni), so that a correct implementation is flagged by any of them with at most that probability: thresholds
follow from the statistics of each check, none was tuned. Checks without chance in them have probability 0 or 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, binomtest, chi2, norm, t

from fedmodels.audit.colluders import colluders_epsilon
from fedmodels.audit.design import Flags, Floats, Integers
from fedmodels.audit.evidence import Evidence
from fedmodels.audit.refuted import refuted_by_guesses, refuted_by_steps, refuted_by_trajectories
from fedmodels.audit.steps import participation
from fedmodels.errors import PrivacyError

FAMILY_WISE_ERROR = 0.01
_EXACT = 1e-3  # relative: what measured constants may differ by, rounding and clip factors included


@dataclass(frozen=True)
class Finding:
    """probability: of something as extreme in a correct implementation, at most; said: what was measured."""

    check: str
    probability: float
    said: str
    flagged: bool


Check = Callable[[Evidence, float], tuple[float, str]]
"""(evidence, level) -> (probability, what was measured). The level is for checks that compare a bound."""


def run_checks(evidence: Evidence, family_wise_error: float = FAMILY_WISE_ERROR) -> list[Finding]:
    """All of `CHECKS`, together flagged by chance with at most this probability."""
    level = family_wise_error / len(CHECKS)
    findings = []
    for name, check in CHECKS.items():
        try:
            probability, said = check(evidence, level)
        except PrivacyError as error:  # what cannot be measured is not in order
            probability, said = 0.0, error.what
        findings.append(Finding(name, probability, said, probability < level))
    return findings


def _noise(evidence: Evidence, rounds: Flags) -> tuple[float, str]:
    """The noise in what the promise's observer sees is no less than the ledger claims, wherever the canary is.

    Sums of squares of independent Gaussians of the claimed deviation are chi-squared.
    """
    claimed = max(charge.noise_multiplier for charges in evidence.charges for charge in charges)
    free = evidence.design.free
    traces, exposure = evidence.traces(evidence.colluders)[rounds, :free], evidence.exposure[rounds, :free]
    probabilities, ratios = [], []
    for hospital in range(evidence.hospitals):
        at = evidence.design.owner[:free] == hospital
        there = evidence.present[rounds, hospital]
        still = traces[there][:, at][exposure[there][:, at] == 0.0]
        if still.size:
            squares = float((still**2).sum())
            probabilities.append(float(chi2.cdf(squares / claimed**2, still.size)))
            ratios.append(math.sqrt(squares / still.size) / claimed)
    if not probabilities:
        return 1.0, "no such round"
    return _any(np.array(probabilities)), f"{min(ratios):.3f} of the noise claimed"


def _noise_of_full_rounds(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001 - as every check
    return _noise(evidence, _full(evidence))


def _noise_after_dropouts(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """The shares of those who are left have to be as much."""
    return _noise(evidence, ~_full(evidence))


def _full(evidence: Evidence) -> Flags:
    return np.asarray(evidence.present.all(axis=1))


def _shift(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """A canary moves a release by the clip exactly, whatever the length of its gradient, in its own coordinate or not.

    Least squares of traces on exposures; the standard error is from the traces of canaries that were not drawn.
    """
    design, traces = evidence.design, evidence.traces(evidence.colluders)
    inner = np.arange(len(design.owner)) >= design.free
    long = np.append(design.long, np.zeros(inner.sum(), np.bool_))
    probabilities, sizes = [], []
    for group in (~inner & ~long, long, inner):
        y, x = traces[:, group], evidence.exposure[:, group]
        power, still = float((x**2).sum()), y[x == 0.0]
        if not group.any() or not still.size or (group is inner and evidence.plan.steps_per_release > 1):
            continue  # between releases weights move, and later gradients with them
        if not power:
            raise PrivacyError("no canary was ever drawn")
        size, error = float((x * y).sum()) / power, float(still.std()) / math.sqrt(power)
        probabilities.append(2.0 * float(norm.sf(abs(size - 1.0) / max(error, _EXACT))))
        sizes.append(size)
    return _any(np.array(probabilities)), "clips: " + ", ".join(f"{size:.3f}" for size in sizes)


def _participation(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """Each canary is in each batch with probability q, independently of all others and of all other batches.

    The number of hits is binomial; so are those of each canary and of each batch, whose variances are compared: in
    fixed or shuffled batches they hardly vary.
    """
    rate = evidence.plan.sampling_rate
    hits, trials = participation(evidence)
    dispersion = []
    for hospital, sizes in enumerate(evidence.batches):
        members = evidence.design.members(hospital)
        dispersion.append((evidence.drawn[members], len(sizes)))
        dispersion.append((sizes, len(members)))
    among = [binomtest(hits, trials, rate).pvalue, *(_dispersion(counts, of, rate) for counts, of in dispersion)]
    variance = float(np.mean([counts.var() / (of * rate * (1.0 - rate) or 1.0) for counts, of in dispersion[::2]]))
    return _any(np.array(among)), f"rate {hits / trials:.4f} of {rate:g}, variance {variance:.2f} of T q (1 - q)"


def _dispersion(counts: Integers, trials: int, rate: float) -> float:
    """Two-sided, for counts that are Binomial(trials, rate): the sum of their squared standardised deviations.

    Its distribution is taken as the multiple of a chi-squared that has its mean and variance, which are known.
    """
    variance = trials * rate * (1.0 - rate)
    if variance == 0.0:
        return float((counts == trials * rate).all())
    total = float(((counts - trials * rate) ** 2).sum()) / variance
    multiple = 1.0 + (1.0 - 6.0 * rate * (1.0 - rate)) / (2.0 * variance)  # half the variance of one square
    freedom = len(counts) / multiple
    tails = chi2.cdf(total / multiple, freedom), chi2.sf(total / multiple, freedom)
    return min(1.0, 2.0 * float(min(tails)))


def _noise_of(evidence: Evidence) -> Floats:
    """[T, n, free] the noise of every hospital: traces without what its canaries added."""
    free = evidence.design.free
    noise = evidence.own[:, :, :free].astype(np.float64)
    columns = np.arange(free)
    noise[:, evidence.design.owner[:free], columns] -= evidence.exposure[:, :free]
    return noise


def _independence(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """The noise of any two hospitals is uncorrelated."""
    noise = _noise_of(evidence)
    probabilities, largest = [], 0.0
    for one in range(evidence.hospitals):
        for other in range(one):
            both = evidence.present[:, one] & evidence.present[:, other]
            pair = _correlation(noise[both, one].ravel(), noise[both, other].ravel())
            probabilities.append(_by_chance(pair, noise[both, one].size))
            largest = max(largest, abs(pair))
    return _any(np.array(probabilities)), f"correlation {largest:.3f} at most"


def _freshness(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """The noise of a hospital in any two rounds is uncorrelated."""
    noise, probabilities, largest = _noise_of(evidence), [1.0], 0.0
    for hospital in range(evidence.hospitals):
        rows = noise[evidence.present[:, hospital], hospital]
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0.0)
        pairs = (rows @ rows.T)[np.tril_indices(len(rows), -1)]
        probabilities.extend(_by_chance(pair, rows.shape[1]) for pair in pairs.tolist())
        largest = max(largest, float(np.abs(pairs).max(initial=0.0)))
    return _any(np.array(probabilities)), f"correlation {largest:.3f} at most"


def _correlation(one: Floats, other: Floats) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def _by_chance(correlation: float, count: int) -> float:
    """Two-sided probability of such a correlation between two independent Gaussian vectors of `count` numbers."""
    left = 1.0 - correlation**2
    if left <= 1e-12:
        return 0.0
    return 2.0 * float(t.sf(abs(correlation) * math.sqrt((count - 1) / left), count - 1))


def _constants(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """Private numbers of patients change neither the rate nor what a canary moves a release by."""
    error = float(np.abs(evidence.movements - np.array([1.0, 0.0])).max(initial=0.0))
    return float(error <= _EXACT), f"off by {error:.2g} clips at most"


def _charges(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """Uploads are rows on the ledger, batches are its steps, and its mechanism is that of the plan."""
    plan, right = evidence.plan, True
    for hospital, charges in enumerate(evidence.charges):
        uploads, batches = int(evidence.present[:, hospital].sum()), len(evidence.batches[hospital])
        right &= len(charges) == uploads and sum(charge.steps for charge in charges) == batches
        right &= all(
            (charge.sampling_rate, charge.noise_multiplier) == (plan.sampling_rate, plan.noise_multiplier)
            for charge in charges
        )
    charged = max(sum(charge.steps for charge in charges) for charges in evidence.charges)
    return float(right), f"{charged} steps charged, {max(len(sizes) for sizes in evidence.batches)} taken"


def _secure_sums(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """What the coordinator opens is the sum of the contributions, and nothing else."""
    return float(evidence.sums_open), "exact" if evidence.sums_open else "a sum is not that of its vectors"


def _homogeneity(evidence: Evidence, level: float) -> tuple[float, str]:  # noqa: ARG001
    """No canary is special: the noise in each coordinate, and how often each canary was drawn."""
    noise = _noise_of(evidence)
    probabilities = []
    for hospital in range(evidence.hospitals):
        rows = noise[evidence.present[:, hospital], hospital]
        spread = rows.std(axis=1, keepdims=True)
        squares = (np.divide(rows, spread, out=np.zeros_like(rows), where=spread > 0.0) ** 2).sum(axis=0)
        probabilities.append(2.0 * np.minimum(chi2.cdf(squares, len(rows)), chi2.sf(squares, len(rows))))
        members, trials = evidence.design.members(hospital), len(evidence.batches[hospital])
        hits, rate = evidence.drawn[members], evidence.plan.sampling_rate
        tails = np.minimum(binom.cdf(hits, trials, rate), binom.sf(hits - 1, trials, rate))
        probabilities.append(np.minimum(1.0, 2.0 * tails))
    every = np.concatenate(probabilities)
    return _any(every), f"the oddest of {every.size} is one of {1.0 / max(every.min(), 1e-300):.2g}"


def _any(probabilities: Floats) -> float:
    """Of the smallest of several, by Bonferroni."""
    return min(1.0, float(probabilities.min()) * probabilities.size)


CHECKS: dict[str, Check] = {
    "noise": _noise_of_full_rounds,
    "noise after dropouts": _noise_after_dropouts,
    "shift": _shift,
    "participation": _participation,
    "independence": _independence,
    "freshness": _freshness,
    "public constants": _constants,
    "charges": _charges,
    "secure sums": _secure_sums,
    "homogeneity": _homogeneity,
    "step-level epsilon": refuted_by_steps,
    "trajectory epsilon": refuted_by_trajectories,
    "guessing epsilon": refuted_by_guesses,
    "colluder epsilon": colluders_epsilon,
}
