"""What a hospital agrees to, decided by a pure function from the hospital's own file.

A request from the coordinator is checked against `policy.toml`, never adopted. Every refusal names its rule.
"""

from typing import Annotated, Literal

from msgspec import Meta

from fedmodels.errors import Refused
from fedmodels.study import Positive, PositiveFloat, Strict, Study

DEFAULT = """\
# What this hospital agrees to. The coordinator cannot change it.
modes = ["local", "distributed"]  # privacy modes allowed; "none" is a study without privacy
min_colluding = 1           # a `distributed` study must stay private against this many hospitals that collude
epsilon_per_study = 10.0    # most that one study may cost a patient, its published evaluation included
epsilon_lifetime = 20.0     # most that all studies together may cost a patient
delta = 1e-4                # largest delta
min_hospitals = 3           # fewest hospitals in any sum
max_rounds = 1000           # most training rounds in a study, its retries included
"""


class Policy(Strict, frozen=True):
    """`policy.toml`. Budgets are epsilon at the study's delta, summed over studies."""

    modes: tuple[Literal["none", "local", "distributed"], ...] = ("local", "distributed")
    min_colluding: Annotated[int, Meta(ge=0)] = 1
    epsilon_per_study: PositiveFloat = 10.0
    epsilon_lifetime: PositiveFloat = 20.0
    delta: PositiveFloat = 1e-4
    min_hospitals: Positive = 3
    max_rounds: Positive = 1000


def check_study(policy: Policy, study: Study) -> None:
    """Raise `Refused` unless the hospital may take part in such a study at all."""
    privacy, rounds = study.privacy, study.training.rounds + study.federation.max_retries
    if privacy.mode not in policy.modes:
        raise _refused("mode", f"privacy mode `{privacy.mode}` is not allowed here", "modes")
    if study.federation.min_contributors < policy.min_hospitals:
        raise _refused("min-hospitals", "the study would open sums over too few hospitals", "min_hospitals")
    if rounds > policy.max_rounds:
        raise _refused("max-rounds", f"the study may take {rounds} rounds", "max_rounds")
    if privacy.mode == "distributed" and privacy.max_colluding < policy.min_colluding:
        what = f"the study is private only while at most {privacy.max_colluding} hospitals collude"
        raise _refused("min-colluding", what, "min_colluding")
    if privacy.mode != "none":
        if privacy.delta > policy.delta:
            raise _refused("delta", f"delta {privacy.delta:g} is too large", "delta")
        if study.epsilon_total > policy.epsilon_per_study:
            raise _refused("epsilon-per-study", f"the study plans epsilon {study.epsilon_total:g}", "epsilon_per_study")


def check_budget(policy: Policy, planned: float, study_epsilon: float, other_epsilon: float) -> None:
    """Raise `Refused` where the next upload would pass a budget.

    planned: epsilon that the approved study says it costs; study_epsilon: cost of this study once the upload is
    charged; other_epsilon: cost of all other studies so far.
    """
    if study_epsilon > planned:
        raise Refused(
            "study-epsilon",
            f"the upload would bring this study to epsilon {study_epsilon:.3f}, it was approved for {planned:.3f}",
            where="approved/study.toml",
            fix="more rounds than planned need a study of their own, approved again",
        )
    if study_epsilon > policy.epsilon_per_study:
        what = f"the upload would bring this study to epsilon {study_epsilon:.3f}"
        raise _refused("budget-study", what, "epsilon_per_study")
    if study_epsilon + other_epsilon > policy.epsilon_lifetime:
        what = f"the upload would bring this hospital to epsilon {study_epsilon + other_epsilon:.3f}"
        raise _refused("budget-lifetime", what, "epsilon_lifetime")


def _refused(rule: str, what: str, key: str) -> Refused:
    return Refused(rule, what, where="policy.toml", fix=f"only this hospital's own people can change `{key}`")
