"""`fedmodels audit view` on SYNTHETIC records: what leaves a hospital, through the product's own functions."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmodels.data.load import load
from fedmodels.dp.lattice_noise import LatticeMechanism
from fedmodels.dp.plan import plan_for
from fedmodels.errors import DataError, UsageError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.report.audit_record import read_folder
from fedmodels.settings import apply_settings
from fedmodels.study import Study, parse_study
from simulations.auditing import image_views
from simulations.auditing.patients import ATTACKED, Cast, choose
from simulations.auditing.updates import Scene
from simulations.auditing.view_command import view
from simulations.cohorts import write_cohort
from simulations.commands import study_file

SMALL = ("model.sizes.channels=[4]", "model.sizes.dense=128")


def a_study(name: str, *settings: str) -> Study:
    return parse_study(apply_settings(study_file(name).read_text(encoding="utf-8"), settings))


def a_cast(tmp_path: Path, study: Study, kind: str = "image") -> Cast:
    (binding,) = write_cohort(kind, tmp_path / "cohort", 1, 60, 0)  # type: ignore[arg-type]
    return choose(load(binding, study), 0, "data.toml")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIENT", "FEATURES", "NARROW_GRADIENT", "NARROW_FEATURES"):
        monkeypatch.setattr(image_views, name, replace(getattr(image_views, name), steps=5, restarts=1))


def exact(gallery: image_views.Gallery) -> list[int]:
    return [one.exact for one in gallery.views if one.exact is not None]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_an_imprint_sees_patients_through_sum_and_clip_and_none_through_noise(tmp_path: Path, mode: str) -> None:
    study = a_study("demo", *SMALL, f"privacy.mode={mode}")
    alone, clipped_sum, noisy = exact(image_views.show(study, a_cast(tmp_path, study), lambda _: None, lambda: None))
    assert min(alone, clipped_sum) >= ATTACKED - 2  # two may share a threshold
    assert noisy == 0


@pytest.mark.usefixtures("quick")
def test_an_imprint_sees_patients_where_the_shares_of_the_noise_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without it, nothing would show that the view runs on the product's own noise."""
    monkeypatch.setattr(LatticeMechanism, "share", lambda self, _: np.zeros(self.dimension, np.int64))
    study = a_study("demo", *SMALL)
    gallery = image_views.show(study, a_cast(tmp_path, study), lambda _: None, lambda: None)
    assert exact(gallery)[2] >= ATTACKED - 2


def test_the_noise_that_is_seen_is_the_certain_one(tmp_path: Path) -> None:
    """With as many colluding hospitals as the study plans for, the deviation is the plan's, not that of all shares."""
    study = a_study("demo", *SMALL)
    scene = Scene(study, flatten(build_model(study)))
    nobody = a_cast(tmp_path, study).attacked.take([])
    noise = scene.protected(nobody)
    plan = plan_for(study)
    assert plan is not None
    assert np.std(noise) == pytest.approx(plan.noise_multiplier * plan.clip, rel=0.05)


def test_updates_are_sums_of_patients_gradients(tmp_path: Path) -> None:
    study = a_study("demo", *SMALL)
    scene, attacked = Scene(study, flatten(build_model(study))), a_cast(tmp_path, study).attacked
    each = [scene.unprotected(attacked.take([row])) for row in range(3)]
    np.testing.assert_allclose(scene.unprotected(attacked.take([0, 1, 2])), sum(each), rtol=1e-4, atol=1e-5)
    for gradient, row in zip(each, range(3), strict=True):
        clipped = scene.clipped(attacked.take([row]))
        assert np.linalg.norm(clipped) <= study.privacy.clip
        cosine = gradient @ clipped / np.linalg.norm(gradient) / np.linalg.norm(clipped)
        assert cosine == pytest.approx(1.0, abs=1e-5)


@pytest.mark.usefixtures("quick")
def test_the_command_writes_private_files_and_names_no_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (binding,) = write_cohort("image", tmp_path / "cohort", 1, 60, 0)
    out = tmp_path / "out"
    view("demo", binding, out, [])
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", "view.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    record = json.loads((out / "view.json").read_text())
    assert read_folder(out).view
    assert [one["patients"] for one in record["views"]] == [1, 8, 4, 1, 1, 8, 8, 8]
    said = capsys.readouterr().out
    assert "may look at" in said
    assert "h1-" not in said + (out / "view.json").read_text()
    with pytest.raises(UsageError, match="not empty"):
        view("demo", binding, out, [])


@pytest.mark.parametrize(("likeness", "warned"), [(15.0, True), (25.0, False)])
def test_attacks_that_fail_without_protection_are_no_reassurance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    likeness: float,
    warned: bool,
) -> None:
    pictures = np.full((ATTACKED, 1, 28, 28), 0.5)
    gallery = image_views.Gallery(pictures, pictures, [image_views.View("one", pictures, likeness, 0.5, 20.0, 0.5)])
    monkeypatch.setattr(image_views, "show", lambda *_: gallery)
    (binding,) = write_cohort("image", tmp_path / "cohort", 1, 60, 0)
    view("demo", binding, tmp_path / "out", [])
    assert ("That is no protection" in " ".join(capsys.readouterr().out.split())) == warned


def test_a_text_study_gives_away_every_bucket_without_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (binding,) = write_cohort("text", tmp_path / "cohort", 1, 60, 0)
    view("synthetic-text", binding, tmp_path / "out", ["privacy.mode=distributed", "training.local_steps=1"])
    assert read_folder(tmp_path).view
    views = json.loads((tmp_path / "out" / "view.json").read_text())["views"]
    assert [one["share"] for one in views[:4]] == [1.0] * 4
    assert all(one["share"] < one["baseline"] for one in views[4:])
    assert len(views) == 6
    assert "A bucket is not a word" in capsys.readouterr().out


def test_a_study_without_privacy_has_no_view_with_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (binding,) = write_cohort("text", tmp_path / "cohort", 1, 60, 0)
    view("synthetic-text", binding, tmp_path / "out", [])
    assert len(json.loads((tmp_path / "out" / "view.json").read_text())["views"]) == 4
    assert "--mode distributed" in capsys.readouterr().out
    study = a_study("synthetic-text")
    with pytest.raises(UsageError, match="without privacy"):
        Scene(study, flatten(build_model(study))).protected(load(binding, study))


def test_studies_and_data_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    (texts,) = write_cohort("text", tmp_path / "text", 1, 60, 0)
    (few,) = write_cohort("image", tmp_path / "few", 1, ATTACKED, 0)
    with pytest.raises(UsageError, match="no view for input of modality `series`"):
        view("synthetic-series", texts, tmp_path / "out", [])
    with pytest.raises(DataError, match="has modality `image`"):
        view("demo", texts, tmp_path / "out", [])
    with pytest.raises(DataError, match="8 patients are too few"):
        view("demo", few, tmp_path / "out", [])
    unlabelled = few.read_text().replace('"train_labels"', '""').replace('"test_labels"', '""')
    few.write_text(unlabelled[: unlabelled.index("[labels]")])
    with pytest.raises(DataError, match="no labels"):
        view("demo", few, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()
