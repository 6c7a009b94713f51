"""Whether a lower bound is above the epsilon that the ledgers claim: the checks that are attacks."""

from fedmodels.audit.bounds import from_guesses, from_trajectories
from fedmodels.audit.design import Flags, Floats
from fedmodels.audit.evidence import Evidence, trajectory_scores
from fedmodels.audit.steps import Measured, epsilon_of, measure


def refuted_by_steps(evidence: Evidence, level: float) -> tuple[float, str]:
    """The step-level bound of the promise's observer."""
    return refuted(evidence, measure(evidence, evidence.colluders, 1.0 - level))


def refuted(evidence: Evidence, measured: Measured) -> tuple[float, str]:
    """Probability 0 where a mechanism of at most this privacy costs more than the ledgers claim, else 1.

    Epsilon is not computed where it cannot be more, because nothing of the mechanism is worse than claimed.
    """
    plan = evidence.plan
    steps = max(sum(charge.steps for charge in charges) for charges in evidence.charges)
    ratio = measured.noise / measured.shift if measured.shift else float("inf")
    if ratio >= plan.noise_multiplier and measured.rate <= plan.sampling_rate and measured.steps <= steps:
        return 1.0, "no more than claimed"
    return _compare(evidence, epsilon_of(measured, plan.delta))


def refuted_by_trajectories(evidence: Evidence, level: float) -> tuple[float, str]:
    """The GDP bound of the promise's observer."""
    scores, inside = _scored(evidence)
    return _compare(evidence, from_trajectories(scores, inside, evidence.plan.delta, 1.0 - level).epsilon)


def refuted_by_guesses(evidence: Evidence, level: float) -> tuple[float, str]:
    """The bounds of Steinke et al. and of Mahloujifar et al., which share the level."""
    bounds = from_guesses(*_scored(evidence), evidence.plan.delta, 1.0 - level / 2.0)
    return _compare(evidence, max(bound.epsilon for bound in bounds))


def _scored(evidence: Evidence) -> tuple[Floats, Flags]:
    free = evidence.design.free
    return trajectory_scores(evidence, evidence.colluders)[-1], evidence.design.inside[:free]


def _compare(evidence: Evidence, epsilon: float) -> tuple[float, str]:
    claimed = evidence.epsilon()
    return float(epsilon <= claimed), f"at least {epsilon:.2f} of {claimed:.2f} claimed"
