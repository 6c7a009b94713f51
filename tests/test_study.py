"""Study and roster: strict, hashed canonically, errors that name file, line, key and expectation."""

import msgspec
import pytest
from federations import STUDY, tiny_study, tiny_text
from hypothesis import given
from hypothesis import strategies as st

from fedmodels.errors import FileError, UsageError
from fedmodels.settings import apply_settings
from fedmodels.study import Hospital, Roster, check_roster, parse_roster, parse_study

KEY = "ab" * 32


def refusal(text: str) -> str:
    with pytest.raises(FileError) as caught:
        parse_study(text, "study.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("rounds = 3", 'rounds = "3"', ":10:", "`training.rounds`: expected `int`, got `str`"),
        ("rounds = 3", "round = 3", ":10:", "unknown key `training.round`"),
        ("rounds = 3\n", "", ":9:", "missing key `training.rounds`"),
        ("batch_rate = 0.2", "batch_rate = 1.5", ":12:", "`training.batch_rate`: expected `float` <= 1.0"),
        ("batch_rate = 0.2", "batch_rate = nan", ":12:", "`training.batch_rate`"),
        ("rounds = 3", "rounds = 0", ":10:", ">= 1"),
        ("rounds = 3", "rounds =", "not valid TOML", "line 10"),
        ('mode = "local"', 'mode = "distributed"', "study.toml:", "one step per round"),
        ("rounds = 3", "rounds = 3\naverage = 1.0", "study.toml:", "average"),
        ('mode = "local"', 'mode = "secret"', ":15:", "privacy.mode"),
        ('labels = ["healthy", "diseased"]', 'labels = ["a", "b", "c"]', ":1:", "exactly two labels"),
        ('labels = ["healthy", "diseased"]', 'labels = ["a", "a"]', ":1:", "differ"),
        ("hospitals = 4", "hospitals = 4\nmin_contributors = 2", "study.toml:", "singled out"),
        ("hospitals = 4", 'hospitals = 4\non_dropout = "recover"\nthreshold = 3', "study.toml:", "too small"),
        ("hospitals = 4", 'hospitals = 3\non_dropout = "recover"\nthreshold = 4', "study.toml:", "4 of 3 hospitals"),
        ("hospitals = 4", "hospitals = 4\nthreshold = 4", "study.toml:", "belongs to on_dropout"),
        ("hospitals = 4", "hospitals = 2", "study.toml:", "at least `federation.min_contributors`"),
        ("low = 0, high = 120", "low = 120, high = 0", "study.toml:", "`low` must be below `high`"),
        ("low = 0, high = 120", "low = nan, high = 1", "study.toml:", "finite"),
        ("low = 0, high = 120", "low = -inf, high = 1", "study.toml:", "finite"),
        ("[privacy]", "[privacy]\ndelta = 0.0", "study.toml:", "delta"),
        ("rounds = 3", "rounds = 3\nclass_weights = [1.0]", "study.toml", "one number per label"),
    ],
)
def test_a_malformed_study_is_refused_and_the_error_says_where(old: str, new: str, where: str, says: str) -> None:
    message = refusal(STUDY.replace(old, new, 1))
    assert where in message
    assert says in message
    assert "->" in message


def test_the_hash_ignores_comments_order_and_spelt_out_defaults() -> None:
    digest = parse_study(STUDY).digest
    assert parse_study("# a comment\n" + STUDY).digest == digest
    assert parse_study(STUDY.replace("rounds = 3\nlocal_steps = 2", "local_steps = 2\nrounds = 3")).digest == digest
    assert parse_study(STUDY.replace("rounds = 3", "rounds = 3\nmomentum = 0.0")).digest == digest


@pytest.mark.parametrize(
    "setting",
    ["training.rounds=4", "privacy.epsilon=8.000001", "study.name=other", "model.sizes.hidden=[5]", "training.seed=1"],
)
def test_every_value_changes_the_hash(setting: str) -> None:
    assert tiny_study(setting).digest != tiny_study().digest


def test_the_hash_of_a_known_study_is_frozen() -> None:
    """A change of this value breaks every approval in the field: it needs a new label in `_digest`."""
    assert tiny_study().digest.hex() == "d0647bbc602fe8465483292423a0a0eba9ec39051ee34a7530598e6f891e87e9"


@given(st.text(max_size=200))
def test_any_text_is_a_study_or_a_named_error(text: str) -> None:
    with pytest.raises(FileError):
        parse_study(text)


def roster(*names: str) -> Roster:
    return Roster(tuple(Hospital(name, f"{i:064x}", 100) for i, name in enumerate(names)))


def test_a_roster_that_does_not_fit_the_study_is_refused() -> None:
    check_roster(tiny_study(), roster("a", "b", "c", "d"))
    with pytest.raises(FileError, match="planned for 4"):
        check_roster(tiny_study(), roster("a", "b", "c"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        f'[[hospital]]\nname = "A"\nidentity_key = "{KEY}"\ndeclared_size = 1',
        f'[[hospital]]\nname = "a"\nidentity_key = "{KEY[:-1]}"\ndeclared_size = 1',
        f'[[hospital]]\nname = "a"\nidentity_key = "{KEY}"\ndeclared_size = 0',
        f'[[hospital]]\nname = "b"\nidentity_key = "{KEY}"\ndeclared_size = 1\n'
        f'[[hospital]]\nname = "a"\nidentity_key = "{KEY[::-1]}"\ndeclared_size = 1',
        f'[[hospital]]\nname = "a"\nidentity_key = "{KEY}"\ndeclared_size = 1\n'
        f'[[hospital]]\nname = "b"\nidentity_key = "{KEY}"\ndeclared_size = 1',
    ],
    ids=["empty", "name", "key", "size", "order", "same key"],
)
def test_a_malformed_roster_is_refused(text: str) -> None:
    with pytest.raises(FileError):
        parse_roster(text)


def test_settings_change_keys_and_nothing_else() -> None:
    assert tiny_text() == STUDY
    changed = tiny_study("privacy.epsilon=3", "privacy.mode=none", "training.class_weights=[1.0, 2.0]")
    assert changed.privacy == msgspec.structs.replace(tiny_study().privacy, epsilon=3.0, mode="none")
    assert changed.training.class_weights == (1.0, 2.0)


@pytest.mark.parametrize("setting", ["rounds=3", "training.rounds", "=3", "study.name.x=1"])
def test_a_setting_that_is_none_is_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        apply_settings(STUDY, [setting])


def test_a_setting_of_an_unknown_key_is_refused_by_the_study() -> None:
    assert "unknown key `training.rouns`" in refusal(tiny_text("training.rouns=3"))
