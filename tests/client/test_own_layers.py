"""Layers that stay at a hospital: trained there, used there, kept there, and in nothing that leaves."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from federations import run, sites_of, tiny_study
from safetensors.numpy import load_file, save_file

from client.commands.model import model as client_model
from client.contribution import Task, update_vector
from client.ownlayers import OwnLayers
from client.site import Site
from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import plan_for
from fedmodels.errors import FileError, PrivacyError, UsageError
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.models.artifact import load_model, load_whole_model
from fedmodels.models.batches import predict
from fedmodels.models.personal import divide
from fedmodels.models.registry import build_model, division, expected_parameters, parameter_count
from fedmodels.models.weights import flatten
from fedmodels.study import parse_study
from simulations.federation import Federation
from simulations.simulate import add_exact_metrics

HEAD = ("training.personal=head",)
NORM = ('model.sizes.norm="layer"', "training.personal=norm")
PLAIN = ("privacy.mode=none",)
RUN_ID = bytes(16)


def own_values(federation: Federation) -> list[np.ndarray]:
    files = [next((site / "personal").iterdir()) for site in federation.sites]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    return [load_file(path)["own"] for path in files]


@pytest.mark.parametrize(
    ("settings", "own"),
    [(HEAD, {"output.weight", "output.bias"}), (NORM, {"hidden.0.1.weight", "hidden.0.1.bias"})],
)
def test_what_is_exchanged_is_all_but_the_own_layers(settings: tuple[str, ...], own: set[str]) -> None:
    study = tiny_study(*settings)
    model, layers = build_model(study), division(study)
    kept = sum(p.numel() for name, p in model.named_parameters() if name in own)
    assert expected_parameters(study) == parameter_count(model) - kept == layers.shared
    whole = flatten(model)
    assert (layers.join(layers.shared_of(whole), layers.own_of(whole)) == whole).all()
    names = np.concatenate([np.full(p.numel(), name) for name, p in sorted(model.named_parameters())])
    assert set(names[layers.own]) == own


@pytest.mark.parametrize("settings", [HEAD, NORM])
def test_every_hospital_ends_with_layers_of_its_own_and_the_model_has_them_as_they_began(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    _, _, federation = run(tmp_path, *PLAIN, *settings)
    study, values = Site(federation.sites[0]).study, own_values(federation)
    layers = division(study)
    begun = layers.own_of(flatten(build_model(study)))
    assert len({v.tobytes() for v in [begun, *values]}) == 5
    trained, _ = load_model(tmp_path / "run")
    assert (layers.own_of(flatten(trained)) == begun).all()
    with pytest.raises(UsageError, match="keep layers to themselves"):
        load_whole_model(tmp_path / "run")
    assert (layers.shared_of(flatten(trained)) != layers.shared_of(flatten(build_model(study)))).any()


def test_an_upload_has_a_word_for_every_exchanged_weight_and_none_for_the_others(tmp_path: Path) -> None:
    _, _, federation = run(tmp_path, *PLAIN, *HEAD, "model.sizes.hidden=[400]")
    site = Site(federation.sites[0])
    uploads = [line for line, _ in site.sent.lines() if line.kind == "train"]
    exchanged, all_ = expected_parameters(site.study), parameter_count(build_model(site.study))
    assert len(uploads) == 3
    assert all(4 * exchanged < line.bytes < 4 * all_ for line in uploads)


def test_a_round_goes_on_from_the_layers_of_the_round_before(tmp_path: Path) -> None:
    study = tiny_study(*PLAIN, *HEAD)
    layers, own = OwnLayers(tmp_path, RUN_ID.hex(), study), division(study)
    shared = own.shared_of(flatten(build_model(study)))
    before = layers.whole(shared)
    assert not layers.trained
    change = np.ones_like(before)
    assert (layers.keep(before, change) == 1.0).all()
    again = OwnLayers(tmp_path, RUN_ID.hex(), study)
    assert (own.own_of(again.whole(shared)) == own.own_of(before) + 1.0).all()
    assert not OwnLayers(tmp_path, bytes(15).hex() + "01", study).trained


def test_each_hospital_is_measured_and_served_with_its_own_layers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result, _, federation = run(tmp_path, *PLAIN, *HEAD)
    study = parse_study((tmp_path / "run" / "study.toml").read_text())
    told = add_exact_metrics(study, federation, tmp_path / "run")["simulation"]
    for site in federation.sites:
        client_model(site, tmp_path / "run", tmp_path / site.name)
        model, _ = load_whole_model(tmp_path / site.name)
        data = load(site / "data.toml", study).part(TEST)
        assert exact_metrics(predict(model, data, study.input), data.y) == told["per_hospital"][site.name]
    assert told["metrics"]["accuracy"] == pytest.approx(
        result["metrics"]["accuracy"]
    )  # the counts were of these models


def test_a_model_is_only_made_of_a_run_that_this_hospital_was_in(tmp_path: Path) -> None:
    _, _, federation = run(tmp_path / "a", *PLAIN, *HEAD)
    result = tmp_path / "a" / "run" / "result.json"
    content = json.loads(result.read_text())
    result.write_text(json.dumps(content | {"run_id": "00" * 16}))
    with pytest.raises(UsageError, match="took no part"):
        client_model(federation.sites[0], tmp_path / "a" / "run", tmp_path / "out")
    _, _, shared = run(tmp_path / "b", *PLAIN)
    with pytest.raises(UsageError, match="kept no layers"):
        client_model(shared.sites[0], tmp_path / "b" / "run", tmp_path / "out")


def test_a_spoilt_file_of_own_layers_is_named(tmp_path: Path) -> None:
    study = tiny_study(*PLAIN, *HEAD)
    layers, shared = OwnLayers(tmp_path, "ab", study), np.zeros(expected_parameters(study), np.float32)
    for spoil in (lambda p: p.write_bytes(b"x"), lambda p: save_file({"own": np.zeros(3, np.float32)}, p)):
        spoil(tmp_path / "ab.safetensors")
        with pytest.raises(FileError, match="own layers"):
            layers.whole(shared)


def test_in_mode_local_the_own_layers_are_trained_by_the_same_noise(tmp_path: Path) -> None:
    """Without a patient all that moves them is noise of deviation learning rate * sigma * C / divisor."""
    study = tiny_study(*HEAD, "model.sizes.hidden=[400]", "training.batch_rate=1.0", "training.local_steps=1",
                       "training.learning_rate=1.0")  # fmt: skip
    site = sites_of(tmp_path / "sites")[0]
    plan, none = plan_for(study), load(site.directory / "data.toml", study).take([])
    assert plan
    shared = division(study).shared_of(flatten(build_model(study)))
    moved = []
    for number in range(20):
        own = OwnLayers(tmp_path, f"{number:02d}", study)
        begun = division(study).own_of(own.whole(shared))
        task = Task(1, 4, own=own)
        update_vector(study, site.roster, site.name, none, plan, task=task, model=shared)
        moved.append(division(study).own_of(own.whole(shared)) - begun)
    deviation = plan.noise_multiplier * plan.clip / site.roster.sizes[site.name]
    assert np.concatenate(moved).std() == pytest.approx(deviation, rel=0.05)


def test_own_layers_are_not_audited_and_not_in_mode_distributed(tmp_path: Path) -> None:
    site, study = sites_of(tmp_path)[0], tiny_study(*HEAD)
    own = OwnLayers(tmp_path, "ab", study)
    probe = Canaries(np.array(["~1"]), np.zeros(1, np.int64), np.ones(1, np.float32), np.zeros((0, 1), np.float32), 1)
    model = np.zeros(expected_parameters(study), np.float32)
    data, task = load(site.directory / "data.toml", study), Task(1, 4, canaries=probe, own=own)
    with pytest.raises(PrivacyError, match="not audited"):
        update_vector(study, site.roster, site.name, data, plan_for(study), task=task, model=model)
    with pytest.raises(FileError, match="share of the noise"):
        tiny_study(*HEAD, "privacy.mode=distributed", "training.local_steps=1")


def test_layers_that_a_model_does_not_have_are_refused() -> None:
    with pytest.raises(FileError, match="no normalisation"):
        expected_parameters(tiny_study("training.personal=norm"))
    with pytest.raises(FileError, match="nothing would be learnt together"):
        divide(build_model(tiny_study("model.sizes.hidden=[]")), "head")
