"""The hospital's policy: every rule refuses by its own name, just beyond its limit, and nothing else does."""

import pytest
from federations import DISTRIBUTED, tiny_study

from client.policy import DEFAULT, RULES, Facts, Policy, Spending, decide, objections
from fedmodels import strict_toml
from fedmodels.errors import FileError, Refused
from fedmodels.joining import grouped

OURS, OTHER = grouped("ab" * 32), grouped("cd" * 32)


def facts(*settings: str, **changes: object) -> Facts:
    values: dict[str, object] = {"parameters": 100, "hospitals": 4, "patients": 50, "minute": 600, **changes}
    return Facts(tiny_study(*settings), **values)  # type: ignore[arg-type]


def refusals(policy: Policy, given: Facts) -> list[str]:
    return [objection.rule for objection in objections(policy, given)]


def test_the_default_policy_is_the_strict_one_that_the_file_says() -> None:
    assert strict_toml.decode(DEFAULT, Policy, "policy.toml") == Policy()
    assert [line.split(" = ")[0] for line in DEFAULT.splitlines() if " = " in line] == [
        "modes", "min_colluding", "epsilon_per_study", "epsilon_lifetime", "delta", "coordinators", "min_roster",
        "min_hospitals", "min_patients", "max_rounds", "max_aborts", "max_parameters", "hours", "keep_sent_megabytes",
    ]  # fmt: skip
    decide(Policy(), facts())


LIMITS = {
    "mode": (Policy(), facts("privacy.mode=local"), facts("privacy.mode=none")),
    "min-hospitals": (
        Policy(min_hospitals=4),
        facts("federation.min_contributors=4"),
        facts("federation.min_contributors=3"),
    ),
    "max-rounds": (Policy(), facts("training.rounds=998"), facts("training.rounds=999")),
    "min-colluding": (
        Policy(min_colluding=2),
        facts(*DISTRIBUTED, "privacy.max_colluding=2", "federation.min_contributors=4"),
        facts(*DISTRIBUTED, "privacy.max_colluding=1", "federation.min_contributors=4"),
    ),
    "delta": (Policy(), facts("privacy.delta=1e-4"), facts("privacy.delta=1.1e-4")),
    "epsilon-per-study": (Policy(), facts("privacy.epsilon=9.0"), facts("privacy.epsilon=9.1")),
    "min-roster": (Policy(min_roster=4), facts(hospitals=4), facts(hospitals=3)),
    "coordinator": (Policy(coordinators=(OURS,)), facts(coordinator=OURS), facts(coordinator=OTHER)),
    "max-parameters": (Policy(max_parameters=100), facts(parameters=100), facts(parameters=101)),
    "hours": (Policy(hours=("08:00-10:00",)), facts(minute=599), facts(minute=600)),
    "max-aborts": (Policy(max_aborts=3), facts(aborts=3), facts(aborts=4)),
    "min-patients": (Policy(), facts(patients=50), facts(patients=49)),
    "budget-study": (Policy(), facts(spending=Spending(9.0, 0.0)), facts(spending=Spending(10.01, 0.0))),
    "budget-lifetime": (Policy(), facts(spending=Spending(9.0, 11.0)), facts(spending=Spending(9.0, 11.1))),
    "study-epsilon": (Policy(), facts(spending=Spending(9.0, 0.0)), facts(spending=Spending(9.01, 0.0))),
}


@pytest.mark.parametrize("rule", LIMITS)
def test_each_rule_allows_its_limit_and_refuses_just_beyond_it_by_its_own_name(rule: str) -> None:
    policy, allowed, refused = LIMITS[rule]
    decide(policy, allowed)
    *first, last = refusals(policy, refused)
    assert last == rule
    assert first == (["study-epsilon"] if rule == "budget-study" else [])  # it was approved for less than that
    with pytest.raises(Refused) as caught:
        decide(policy, refused)
    assert caught.value.exit_code == 3


def test_every_rule_has_its_limits_tested() -> None:
    assert {rule for rule, _, _ in RULES} | {"study-epsilon"} == set(LIMITS)
    assert {key for _, key, _ in RULES} | {"keep_sent_megabytes"} == set(Policy.__struct_fields__)


def test_all_objections_are_told_at_once() -> None:
    assert refusals(Policy(), facts("privacy.mode=none", hospitals=1, patients=1)) == [
        "mode", "min-roster", "min-patients",
    ]  # fmt: skip


def test_what_a_step_does_not_touch_is_not_decided_upon() -> None:
    decide(Policy(hours=("08:00-09:00",)), facts(patients=None, minute=None))


def test_no_refusal_tells_how_many_patients_there_are() -> None:
    (refusal,) = objections(Policy(), facts(patients=37))
    assert "37" not in str(refusal)


@pytest.mark.parametrize(("least", "colluding"), [(1, 1), (0, 0), (0, 1)])
def test_a_local_study_need_not_withstand_colluding_hospitals(least: int, colluding: int) -> None:
    """Each hospital's noise is all its own."""
    settings = (f"privacy.max_colluding={colluding}", "federation.min_contributors=4")
    decide(Policy(min_colluding=least), facts(*settings))
    decide(Policy(min_colluding=3), facts(*settings))


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_mode_is_allowed_by_its_own_name_only(mode: str) -> None:
    given = facts("training.local_steps=1", f"privacy.mode={mode}")
    decide(Policy(modes=(mode,)), given)  # type: ignore[arg-type]
    others = tuple({"none", "local", "distributed"} - {mode})
    assert refusals(Policy(modes=others), given) == ["mode"]  # type: ignore[arg-type]


def test_without_an_invitation_no_list_of_coordinators_is_satisfied() -> None:
    assert refusals(Policy(coordinators=(OURS,)), facts()) == ["coordinator"]


def test_a_study_that_allows_more_aborted_rounds_than_the_policy_is_refused_before_the_first_one() -> None:
    decide(Policy(max_aborts=2), facts("federation.max_retries=2"))
    assert refusals(Policy(max_aborts=2), facts("federation.max_retries=3")) == ["max-aborts"]


def test_a_study_after_one_without_privacy_is_beyond_any_lifetime_budget() -> None:
    assert refusals(Policy(), facts(spending=Spending(0.1, float("inf")))) == ["budget-lifetime"]


@pytest.mark.parametrize(
    ("hours", "minute", "allowed"),
    [
        (("00:00-24:00",), 0, True),
        (("00:00-24:00",), 1439, True),
        (("19:00-06:00",), 19 * 60, True),
        (("19:00-06:00",), 359, True),
        (("19:00-06:00",), 360, False),
        (("08:00-09:00", "19:00-20:00"), 19 * 60, True),
        (("08:00-09:00", "19:00-20:00"), 540, False),
    ],
)
def test_hours_may_go_over_midnight_and_have_several_spans(hours: tuple[str, ...], minute: int, allowed: bool) -> None:
    assert refusals(Policy(hours=hours), facts(minute=minute)) == ([] if allowed else ["hours"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('mode = ["local"]', "mode"),
        ('hours = ["8-10"]', "hours"),
        ('hours = ["08:00-08:00"]', "two different times"),
        ("hours = []", "hours"),
        ('coordinators = ["abcd"]', "coordinators"),
        ("min_patients = 0", "min_patients"),
    ],
)
def test_a_policy_that_says_nothing_sensible_is_refused(text: str, says: str) -> None:
    with pytest.raises(FileError, match=says):
        strict_toml.decode(text, Policy, "policy.toml")
