"""The hospital's policy: every rule refuses by its own name, and nothing else does."""

import pytest
from federations import DISTRIBUTED, tiny_study

from client.policy import DEFAULT, Policy, check_budget, check_study
from fedmodels import strict_toml
from fedmodels.errors import FileError, Refused


def test_the_default_policy_is_the_strict_one_that_the_file_says() -> None:
    assert strict_toml.decode(DEFAULT, Policy, "policy.toml") == Policy()
    check_study(Policy(), tiny_study())


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("mode", ["privacy.mode=none"]),
        ("delta", ["privacy.delta=1e-3"]),
        ("epsilon-per-study", ["privacy.epsilon=9.5"]),
        ("max-rounds", ["training.rounds=999"]),
    ],
)
def test_a_study_beyond_the_policy_is_refused_by_rule(rule: str, settings: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        check_study(Policy(), tiny_study(*settings))
    assert caught.value.rule == rule
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("least", "colluding", "refused"), [(1, 1, False), (0, 0, False), (1, 0, True), (3, 2, True)])
def test_a_distributed_study_must_withstand_as_many_colluding_hospitals_as_the_policy_says(
    least: int, colluding: int, refused: bool
) -> None:
    """In mode `local` it need not withstand any: each hospital's noise is all its own."""
    settings = (f"privacy.max_colluding={colluding}", "federation.min_contributors=4")
    check_study(Policy(min_colluding=least), tiny_study(*settings))
    study = tiny_study(*DISTRIBUTED, *settings)
    if not refused:
        check_study(Policy(min_colluding=least), study)
        return
    with pytest.raises(Refused) as caught:
        check_study(Policy(min_colluding=least), study)
    assert caught.value.rule == "min-colluding"


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_mode_is_allowed_by_its_own_name_only(mode: str) -> None:
    study = tiny_study("training.local_steps=1", f"privacy.mode={mode}")
    check_study(Policy(modes=(mode,)), study)
    with pytest.raises(Refused) as caught:
        check_study(Policy(modes=tuple({"none", "local", "distributed"} - {mode})), study)
    assert caught.value.rule == "mode"


def test_a_study_with_too_small_sums_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        check_study(Policy(min_hospitals=4), tiny_study())
    assert caught.value.rule == "min-hospitals"


@pytest.mark.parametrize(
    ("rule", "planned", "study", "other"),
    [
        ("study-epsilon", 9.0, 9.1, 0.0),
        ("budget-study", 11.0, 10.1, 0.0),
        ("budget-lifetime", 9.0, 9.0, 11.1),
        ("budget-lifetime", 9.0, 0.1, float("inf")),
    ],
)
def test_an_upload_beyond_a_budget_is_refused_by_rule(rule: str, planned: float, study: float, other: float) -> None:
    with pytest.raises(Refused) as caught:
        check_budget(Policy(), planned, study, other)
    assert caught.value.rule == rule


def test_an_upload_within_all_budgets_is_allowed() -> None:
    check_budget(Policy(), 9.0, 9.0, 11.0)


def test_an_unknown_key_in_a_policy_is_refused() -> None:
    with pytest.raises(FileError, match="mode"):
        strict_toml.decode('mode = ["local"]', Policy, "policy.toml")
