"""`study new` and `study check` of mode `distributed`: what they promise, against whom, and that nothing else does."""

import io
import tomllib
from pathlib import Path

import pytest
from federations import DISTRIBUTED, tiny_study, tiny_text
from rich.console import Console

from fedmodels.commands import study as commands
from fedmodels.commands.study import explain, study_check, study_new
from fedmodels.dp.plan import plan_for
from fedmodels.errors import FileError
from fedmodels.study import parse_study


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(commands, "_console", Console(file=text, width=200))
    return text


def said(screen: io.StringIO) -> str:
    return " ".join(screen.getvalue().replace("│", " ").split())


def test_a_new_distributed_study_takes_one_step_a_round_and_many_rounds(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    study_new(file, "x", "mlp", "a,b", "distributed", 4, 3.0)
    study = parse_study(file.read_text())
    assert (study.privacy.mode, study.privacy.epsilon, study.federation.on_dropout) == ("distributed", 3.0, "retry")
    assert (study.training.local_steps, study.training.rounds) == (1, 100)
    assert "one step per round" in file.read_text()
    with pytest.raises(FileError, match="one step per round"):
        parse_study(file.read_text().replace("local_steps = 1 ", "local_steps = 5 "))


def test_new_studies_of_two_modes_differ_in_how_they_train_and_in_the_mode_alone(tmp_path: Path) -> None:
    written = {}
    for mode in ("local", "distributed"):
        study_new(tmp_path / mode, "x", "mlp", "a,b", mode, 4, 3.0)
        written[mode] = tomllib.loads((tmp_path / mode).read_text())
        assert written[mode].pop("training")
        assert written[mode]["privacy"].pop("mode") == mode
    assert written["local"] == written["distributed"]


def test_check_tells_what_stays_at_a_hospital(tmp_path: Path, screen: io.StringIO) -> None:
    file = tmp_path / "study.toml"
    study_new(file, "x", "mlp", "a,b", "local", 4, 3.0)
    study_check(file)
    assert "never leave" not in said(screen)
    file.write_text(file.read_text().replace('personal = "none"', 'personal = "head"'))
    study_check(file)
    assert "model mlp, 192 parameters, and 33 that never leave a hospital" in said(screen)


def test_check_tells_what_a_distributed_study_promises(tmp_path: Path, screen: io.StringIO) -> None:
    file = tmp_path / "study.toml"
    study_new(file, "x", "mlp", "a,b", "distributed", 4, 3.0)
    study_check(file)
    text, plan = said(screen), plan_for(parse_study(file.read_text()))
    assert plan is not None
    for part in (
        "100 of 1 local steps", "mode distributed: the hospitals, also without 1 of them, add noise of "
        f"{plan.noise_multiplier:.2f} times the clip", "whether any one patient's whole record was used changes the "
        "sums over hospitals", f"{plan.epsilon(plan.releases):.2f} with all retries",
        "together with one colluding hospital", "given secure aggregation", "everyone who sees the model",
    ):  # fmt: skip
        assert part in text


def test_the_modes_are_not_explained_alike() -> None:
    """`local` says that it holds against everyone; of `distributed` that would be false."""
    local, distributed = (explain(study, plan_for(study)) for study in (tiny_study(), tiny_study(*DISTRIBUTED)))
    assert "also if secure aggregation were broken" in local
    assert "also if secure aggregation were broken" not in distributed
    assert "given secure aggregation" in distributed
    assert "rests on secure aggregation" not in local


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("", "of more than 128 tokens only their first tokens are kept; names, numbers and dates of birth"),
        ('keep = "tail"\nmask_identifiers = false\n', "only their last tokens are kept; identifiers are not masked"),
    ],
)
def test_check_tells_what_a_model_sees_of_a_text(tmp_path: Path, screen: io.StringIO, settings: str, says: str) -> None:
    file = tmp_path / "study.toml"
    study_new(file, "x", "text-gru", "a,b", "distributed", 4, 3.0)
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not (settings and line.startswith(("keep", "mask_identifiers")))]
    file.write_text("".join(kept).replace("max_tokens = 128\n", f"max_tokens = 128\n{settings}"))
    study_check(file)
    assert says in said(screen)


@pytest.mark.parametrize(("mode", "told"), [("local", True), ("none", False)])
def test_check_tells_how_many_rows_a_patient_has_in_one_pass(
    tmp_path: Path, screen: io.StringIO, mode: str, told: bool
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(tiny_text("training.records=5", f"privacy.mode={mode}"))
    study_check(file)
    assert ("5 records times 1 copies are 5 rows, clipped as one" in said(screen)) == told
    file.write_text(tiny_text(f"privacy.mode={mode}"))
    study_check(file)
    assert said(screen).count("clipped as one") == told
