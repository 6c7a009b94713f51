"""What a hospital agrees to, decided by a pure function from the hospital's own file.

A request from the coordinator is checked against `policy.toml`, never adopted. Every refusal names its rule.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from fedmodels.errors import Refused
from fedmodels.study import Study
from fedmodels.typed import Positive, PositiveFloat, Strict

DEFAULT = """\
# What this hospital agrees to. Nobody else can change it; it is read anew for every request.
# Every limit is the last value that is still allowed.

# Privacy. Epsilon bounds what anybody can learn about one patient: 1 is strong, 10 is weak.
modes = ["local", "distributed"]  # privacy modes allowed; "none" is a study without privacy
min_colluding = 1           # a `distributed` study must stay private against this many hospitals that collude
epsilon_per_study = 10.0    # most that one study may cost a patient, its published evaluation included
epsilon_lifetime = 20.0     # most that all studies together may cost a patient
delta = 1e-4                # largest delta, the probability that the promise fails: below 1 / patients

# Who takes part.
coordinators = []           # fingerprints allowed; empty: whichever this hospital's own people connected it to
min_roster = 3              # fewest hospitals on the roster
min_hospitals = 3           # fewest hospitals in any sum
min_patients = 50           # fewest training patients of this hospital

# How much, and when.
max_rounds = 1000           # most training rounds in a study, its retries included
max_aborts = 20             # most training uploads of a study beyond one for each round
max_parameters = 100000000  # largest model, in weights; each takes 4 bytes up and down in every round
hours = ["00:00-24:00"]     # local time in which work may begin, say ["19:00-06:00"]

# What is kept as evidence of what left.
keep_sent_megabytes = 1024  # masked vectors; the oldest beyond this are deleted. Small messages are always kept
"""

Span = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)\Z")]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}( [0-9a-f]{4}){9}\Z")]
NotNegative = Annotated[int, Meta(ge=0)]


class Policy(Strict, frozen=True):
    """`policy.toml`; `DEFAULT` says what each key means. Budgets are epsilon at the study's delta, summed over studies.

    hours: spans "HH:MM-HH:MM", the end not included; one that ends before it begins goes over midnight.
    """

    modes: tuple[Literal["none", "local", "distributed"], ...] = ("local", "distributed")
    min_colluding: NotNegative = 1
    epsilon_per_study: PositiveFloat = 10.0
    epsilon_lifetime: PositiveFloat = 20.0
    delta: PositiveFloat = 1e-4
    coordinators: tuple[Fingerprint, ...] = ()
    min_roster: Positive = 3
    min_hospitals: Positive = 3
    min_patients: Positive = 50
    max_rounds: Positive = 1000
    max_aborts: NotNegative = 20
    max_parameters: Positive = 100_000_000
    hours: Annotated[tuple[Span, ...], Meta(min_length=1)] = ("00:00-24:00",)
    keep_sent_megabytes: NotNegative = 1024

    def __post_init__(self) -> None:
        for start, end in map(_minutes, self.hours):
            if start == end:
                raise ValueError("a span of `hours` needs two different times")


@dataclass(frozen=True)
class Spending:
    """Epsilon with the upload in question: of this study, and of all other studies so far."""

    study: float
    elsewhere: float


@dataclass(frozen=True)
class Facts:
    """All that a decision depends on. None stands for what a step does not touch, and its rule is left out.

    parameters: weights of the study's model; hospitals: on the roster; coordinator: fingerprint of the pinned
    invitation, empty where there is none, as in a simulation; minute: of the day, in the hospital's local time;
    patients: training patients here; aborts: training uploads of the study beyond one for each round, the one in
    question included.
    """

    study: Study
    parameters: int
    hospitals: int
    coordinator: str = ""
    minute: int | None = None
    patients: int | None = None
    aborts: int = 0
    spending: Spending | None = None


def decide(policy: Policy, facts: Facts) -> None:
    """Raise `Refused`, by the first rule that forbids it, or return."""
    for objection in objections(policy, facts):
        raise objection


def objections(policy: Policy, facts: Facts) -> Iterator[Refused]:
    """Every rule that forbids it: first that a study costs no more than it was approved for, then those of `RULES`."""
    if facts.spending and facts.spending.study > facts.study.epsilon_total:
        yield Refused(
            "study-epsilon",
            f"the upload would bring this study to epsilon {facts.spending.study:.3f}, it was approved for "
            f"{facts.study.epsilon_total:.3f}",
            where="approved/study.toml",
            fix="more rounds than planned need a study of their own, approved again",
        )
    for rule, key, check in RULES:
        if what := check(policy, facts):
            yield Refused(
                rule, what, where=f"policy.toml, {key}", fix=f"only this hospital's own people can change `{key}`"
            )


def _mode(policy: Policy, facts: Facts) -> str:
    mode = facts.study.privacy.mode
    return "" if mode in policy.modes else f"privacy mode `{mode}` is not allowed here"


def _hospitals(policy: Policy, facts: Facts) -> str:
    least = facts.study.federation.min_contributors
    return f"the study opens sums over {least} hospitals" if least < policy.min_hospitals else ""


def _rounds(policy: Policy, facts: Facts) -> str:
    rounds = facts.study.training.rounds + facts.study.federation.max_retries
    return f"the study may take {rounds} rounds" if rounds > policy.max_rounds else ""


def _colluding(policy: Policy, facts: Facts) -> str:
    privacy = facts.study.privacy
    if privacy.mode == "distributed" and privacy.max_colluding < policy.min_colluding:
        return f"the study is private only while at most {privacy.max_colluding} hospitals collude"
    return ""


def _delta(policy: Policy, facts: Facts) -> str:
    privacy = facts.study.privacy
    return f"delta {privacy.delta:g} is too large" if privacy.mode != "none" and privacy.delta > policy.delta else ""


def _epsilon(policy: Policy, facts: Facts) -> str:
    planned = facts.study.epsilon_total
    too_much = facts.study.privacy.mode != "none" and planned > policy.epsilon_per_study
    return f"the study plans epsilon {planned:g}" if too_much else ""


def _roster(policy: Policy, facts: Facts) -> str:
    return f"the roster has {facts.hospitals} hospitals" if facts.hospitals < policy.min_roster else ""


def _coordinator(policy: Policy, facts: Facts) -> str:
    if not policy.coordinators or facts.coordinator in policy.coordinators:
        return ""
    return f"the coordinator {facts.coordinator or 'without an invitation'} is not one of those allowed"


def _parameters(policy: Policy, facts: Facts) -> str:
    return f"the model has {facts.parameters:,} weights" if facts.parameters > policy.max_parameters else ""


def _hours(policy: Policy, facts: Facts) -> str:
    if facts.minute is None or any(_within(facts.minute, *_minutes(span)) for span in policy.hours):
        return ""
    return f"it is {facts.minute // 60:02d}:{facts.minute % 60:02d} here, outside the hours of work"


def _aborts(policy: Policy, facts: Facts) -> str:
    if facts.study.federation.max_retries > policy.max_aborts:
        return f"the study allows {facts.study.federation.max_retries} aborted rounds"
    return f"it would be upload {facts.aborts} beyond one for each round" if facts.aborts > policy.max_aborts else ""


def _patients(policy: Policy, facts: Facts) -> str:
    too_few = facts.patients is not None and facts.patients < policy.min_patients
    return "this hospital has too few training patients" if too_few else ""


def _budget_study(policy: Policy, facts: Facts) -> str:
    if facts.spending is None or facts.spending.study <= policy.epsilon_per_study:
        return ""
    return f"the upload would bring this study to epsilon {facts.spending.study:.3f}"


def _budget_lifetime(policy: Policy, facts: Facts) -> str:
    if facts.spending is None:
        return ""
    total = facts.spending.study + facts.spending.elsewhere
    return f"all studies together would come to epsilon {total:.3f}" if total > policy.epsilon_lifetime else ""


RULES: tuple[tuple[str, str, Callable[[Policy, Facts], str]], ...] = (
    ("mode", "modes", _mode),
    ("min-hospitals", "min_hospitals", _hospitals),
    ("max-rounds", "max_rounds", _rounds),
    ("min-colluding", "min_colluding", _colluding),
    ("delta", "delta", _delta),
    ("epsilon-per-study", "epsilon_per_study", _epsilon),
    ("min-roster", "min_roster", _roster),
    ("coordinator", "coordinators", _coordinator),
    ("max-parameters", "max_parameters", _parameters),
    ("hours", "hours", _hours),
    ("max-aborts", "max_aborts", _aborts),
    ("min-patients", "min_patients", _patients),
    ("budget-study", "epsilon_per_study", _budget_study),
    ("budget-lifetime", "epsilon_lifetime", _budget_lifetime),
)
"""(rule, key of the policy, what is wrong or an empty string)."""


def _minutes(span: str) -> tuple[int, int]:
    start, end = (60 * int(time[:2]) + int(time[3:]) for time in span.split("-"))
    return start, end


def _within(minute: int, start: int, end: int) -> bool:
    return start <= minute < end if start < end else minute >= start or minute < end
