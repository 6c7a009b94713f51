"""What an audit holds after a run, and the run as an observer of the promise sees it.

Units: traces are in units of the clip C, and of the noise of one step. A canary that was drawn in a round moves the
trace of its hospital's contribution by its `exposure`; the noise that the plan promises to be certain has a deviation
of the noise multiplier.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.audit.design import Design, Flags, Floats, Integers
from fedmodels.dp.accounting import SampledGaussian, epsilon_upper
from fedmodels.dp.plan import Plan
from fedmodels.errors import PrivacyError
from fedmodels.study import Training

Traces = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """A run of T rounds of n hospitals with k canaries.

    own: [T, n, k] the traces in each hospital's contribution before masking, 0 where it did not take part; present:
    [T, n]; exposure: [T, k] what a canary's own batches add to its trace; drawn: [k] batches that each canary was in;
    batches: for each hospital, [B] the number of canaries in each of its batches; charges: for each hospital, the
    training releases on its ledger; max_colluding: c of the study; sums_open: every secure sum was that of its vectors.
    movements: [m, 2] what a lone canary moves the contribution of hospitals with different private sizes by, drawn for
    certain and certainly not, with their noise held fixed. threshold: of `recover` rounds, None in `retry` rounds.
    """

    plan: Plan
    design: Design
    max_colluding: int
    own: Traces
    present: Flags
    exposure: Floats
    drawn: Integers
    batches: tuple[Integers, ...]
    charges: tuple[tuple[SampledGaussian, ...], ...]
    sums_open: bool
    movements: Floats
    threshold: int | None = None

    @property
    def rounds(self) -> int:
        return len(self.own)

    @property
    def hospitals(self) -> int:
        return len(self.charges)

    @property
    def colluders(self) -> int:
        """Hospitals that the promise's observer knows everything of: in mode `local`, all others."""
        return self.max_colluding if self.plan.mode == "distributed" else self.hospitals - 1

    def known(self, colluders: int) -> Flags:
        """[T, n, n] whose contributions are known where a canary of hospital h is looked for, in [:, h]: of those who
        are present, the `colluders` that follow h in the roster."""
        return self._following(np.full(self.rounds, colluders))

    def unseen(self, colluders: int) -> Flags:
        """[T, n, n] whose contributions are not in what is left where a canary of hospital h is looked for: those that
        are known, and in `recover` rounds those that a coordinator leaves out who lies about dropouts."""
        if self.threshold is None:
            return self.known(colluders)
        contributors = self.present.sum(axis=1)
        left = [fewest_in_a_sum(int(there), self.threshold, colluders) for there in contributors]
        return self._following(contributors - np.array(left, np.int64))

    def _following(self, counts: Integers) -> Flags:
        """[T, n, n] in [t, h] the first counts[t] of those present who follow h in the roster; counts: [T]."""
        order = (np.arange(self.hospitals)[:, None] + np.arange(1, self.hospitals)[None, :]) % self.hospitals
        chosen = np.zeros((self.rounds, self.hospitals, self.hospitals), np.bool_)
        for hospital, others in enumerate(order):
            there = self.present[:, others]
            chosen[:, hospital, others] = there & (np.cumsum(there, axis=1) <= counts[:, None])
        return chosen

    def traces(self, colluders: int) -> Floats:
        """[T, k] as the coordinator sees them who knows that many hospitals' contributions, and subtracts them.

        In `recover` rounds it opens the smallest sum that lies about dropouts can open.
        """
        seen, unseen = np.empty((self.rounds, self.own.shape[2])), self.unseen(colluders)
        for hospital in range(self.hospitals):
            at = self.design.owner == hospital
            left = self.own[:, :, at] * ~unseen[:, hospital, :, None]
            seen[:, at] = left.sum(axis=1, dtype=np.float64)
        return seen

    def contributed(self, rounds: int) -> tuple[Floats, Flags]:
        """[rounds, free] each canary's trace in its own hospital's contribution, and whether there was one."""
        columns = np.arange(self.design.free)
        owner = self.design.owner[: self.design.free]
        return self.own[:rounds, owner, columns].astype(np.float64), self.present[:rounds, owner]

    def epsilon(self, rounds: int | None = None) -> float:
        """What the ledgers charge for the first `rounds` of a hospital's releases (default: all), at most."""
        costs = {charges[:rounds] for charges in self.charges}
        return max(epsilon_upper(merged(charges), self.plan.delta) for charges in costs)


def fewest_in_a_sum(contributors: int, threshold: int, colluders: int) -> int:
    """The fewest honest hospitals that a coordinator who lies about dropouts can sum up in a `recover` round.

    Each of the s hospitals in such a sum, and each of the o other honest ones, believes that at most
    contributors - threshold dropped out, and reveals the masks that it shares with these. All s * o masks between the
    two groups have to be revealed by one side or the other. Shares of the self mask of one of the s come from the
    colluders, from all s, and from those others whose masks with it that hospital revealed itself: `threshold` of them
    are needed. Never below 2 * threshold - contributors - colluders, the bound of `secagg.Terms`.
    """
    lies = contributors - threshold
    for size in range(1, contributors - colluders):
        others = contributors - colluders - size
        one, other = min(lies, others), min(lies, size)
        if colluders + size + one >= threshold and size * others <= size * one + others * other:
            return size
    return max(1, contributors - colluders)


def merged(charges: tuple[SampledGaussian, ...]) -> tuple[SampledGaussian, ...]:
    """The same releases with those of one mechanism as one event."""
    steps: dict[tuple[float, float], int] = {}
    for charge in charges:
        key = charge.sampling_rate, charge.noise_multiplier
        steps[key] = steps.get(key, 0) + charge.steps
    return tuple(SampledGaussian(rate, noise, count) for (rate, noise), count in sorted(steps.items()))


def step_weights(training: Training, plan: Plan) -> Floats:
    """[steps per release] how much each local step's gradient adds to a round's change of a weight that starts at zero.

    A free coordinate is such a weight: its gradient depends on nothing but the canary, so that the change is a linear
    function of the steps' noisy gradients, times the learning rate over the divisor, which are left out. Weights are
    those of `torch.optim.SGD` with momentum and weight decay. Adam is not linear: `PrivacyError`. In mode `distributed`
    the one gradient itself is released.
    """
    steps = plan.steps_per_release
    if plan.mode == "distributed":
        return np.ones(1)
    if training.optimiser != "sgd":
        raise PrivacyError(
            "what Adam does to a canary between two releases cannot be undone, so that its trace cannot be read",
            where="training.optimiser",
            fix="audit the study with `--set training.optimiser=sgd`; the privacy mechanism is the same",
        )
    weights = np.empty(steps)
    for impulse in range(steps):
        weight = velocity = 0.0
        for step in range(steps):
            velocity = training.momentum * velocity + float(step == impulse) - training.weight_decay * weight
            weight += training.learning_rate * velocity
        weights[impulse] = weight / training.learning_rate
    return weights


def trajectory_scores(evidence: Evidence, colluders: int) -> Floats:
    """[T, free] the log likelihood ratio of each canary's trace, inside against outside, after each round.

    For the mechanism that the ledger claims: each batch holds the canary with probability q, the noise has its
    deviation. Of several local steps the number that holds it decides, each with the mean weight of a step. Scores of
    another mechanism are as valid, only less telling.
    """
    plan, design = evidence.plan, evidence.design
    traces = evidence.traces(colluders)[:, : design.free]
    steps, rate, variance = plan.steps_per_release, plan.sampling_rate, plan.noise_multiplier**2
    ratio = np.zeros_like(traces)
    for hits in range(steps + 1):
        chance = math.comb(steps, hits) * rate**hits * (1.0 - rate) ** (steps - hits)
        if chance:
            shift = hits / math.sqrt(steps)
            ratio += chance * np.exp(np.minimum((traces - shift / 2.0) * shift / variance, 600.0))
    return np.asarray(np.cumsum(np.log(ratio), axis=0))
