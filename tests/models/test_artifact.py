"""A saved model comes back as it was, from its two files alone; anything else is refused with a reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from model_studies import INPUTS, SERIES, TABLE, TEXT, a_batch, a_study
from opacus.grad_sample import GradSampleModule
from safetensors.torch import load_file, save_file

from fedmodels.dp.clipping.prepare import prepare
from fedmodels.errors import FedmodelsError, FileError, RunError, UsageError
from fedmodels.models.artifact import CARD, WEIGHTS, Trained, load_model, load_whole_model, save_model
from fedmodels.models.registry import build_model
from fedmodels.study import About


@pytest.mark.parametrize("name", INPUTS)
def test_a_saved_model_comes_back_with_the_same_outputs(name: str, tmp_path: Path) -> None:
    study = a_study(name, INPUTS[name], "dropout = 0.5", labels=3)
    model = build_model(study, seed=9).eval()
    save_model(tmp_path, model, study)
    before = torch.get_rng_state()
    loaded, card = load_model(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    x, lengths, _ = a_batch(name, 3)
    assert torch.equal(loaded(x, lengths), model(x, lengths))
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert card.study == study.study
    assert card.input == study.input
    assert card.study_hash == study.digest.hex()
    assert card.sizes["dropout"] == 0.5


def test_a_loaded_model_can_be_trained_further(tmp_path: Path) -> None:
    study = a_study("gru", SERIES)
    save_model(tmp_path, build_model(study), study)
    model, _ = load_model(tmp_path)
    x, lengths, _ = a_batch("gru", 3)
    model.train()(x, lengths).sum().backward()
    before = model.recurrent.weight_hh_l0.detach().clone()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(before, model.recurrent.weight_hh_l0)


def test_the_card_of_a_preset_spells_its_sizes_out(tmp_path: Path) -> None:
    study = a_study("article-text-gru", TEXT)
    save_model(tmp_path, build_model(study), study)
    card = json.loads((tmp_path / CARD).read_text())
    assert (card["model"], card["family"]) == ("article-text-gru", "text-gru")
    assert card["sizes"] == {"hidden": 128, "dense": 0, "dropout": 0.0, "pool": "last", "embedding": 128}


def test_the_card_says_what_the_model_is_for_and_how_it_came_about(tmp_path: Path) -> None:
    words = {"description": "a from b", "intended_use": "research", "limits": "not for children"}
    study = msgspec.structs.replace(a_study("mlp", TABLE), study=About("s", "binary", ("0", "1"), **words))
    trained = Trained(4, 30, "local", 9.5, 1e-5, "everyone", {"auroc": 0.9})
    save_model(tmp_path, build_model(study), study, trained=trained)
    _, card = load_model(tmp_path)
    assert card.trained == trained
    assert {key: getattr(card.study, key) for key in words} == words
    assert load_whole_model(tmp_path)[1] == card


def test_a_model_whose_hospitals_keep_layers_is_told_from_a_whole_one(tmp_path: Path) -> None:
    study, trained = a_study("mlp", TABLE), Trained(4, 30, "none", None, None, "nobody", {}, lacks="head")
    save_model(tmp_path, build_model(study), study, trained=trained)
    load_model(tmp_path)
    with pytest.raises(UsageError, match="keep layers to themselves"):
        load_whole_model(tmp_path)


def test_a_model_with_private_layers_is_saved_under_the_plain_names(tmp_path: Path) -> None:
    study = a_study("lstm", SERIES)
    model = build_model(study)
    save_model(tmp_path, prepare(model).model, study)
    loaded, _ = load_model(tmp_path)
    assert all(torch.equal(p, model.state_dict()[name]) for name, p in loaded.state_dict().items())


def _edit_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def _edit_card(**change: object) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        (folder / CARD).write_text(json.dumps({**card, **change}))

    return damage


NAME = "recurrent.bias_ih_l0"
DAMAGES: list[tuple[Callable[[Path], Any], type[FedmodelsError], str]] = [
    (lambda folder: (folder / WEIGHTS).unlink(), UsageError, "model.safetensors: cannot be read: No such file"),
    (lambda folder: (folder / CARD).unlink(), UsageError, "model.json: no such file"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x04pickle"), FileError, "not a safetensors file"),
    (lambda folder: (folder / CARD).write_text("{"), FileError, "not a model card"),
    (_edit_weights(lambda t: t.pop(NAME)), FileError, f"`{NAME}` are missing"),
    (_edit_weights(lambda t: t.update(more=t[NAME].clone())), FileError, "`more` are not part of this model"),
    (_edit_weights(lambda t: t.update({NAME: t[NAME][1:]})), FileError, r"\[127\] instead of torch.float32 \[128\]"),
    (_edit_weights(lambda t: t.update({NAME: t[NAME].double()})), FileError, r"torch.float64 \[128\] instead of"),
    (_edit_weights(lambda t: t[NAME].__setitem__(3, torch.nan)), FileError, f"`{NAME}` are not all finite"),
    (_edit_card(format=2), FileError, r"`\$.format`"),
    (_edit_card(surprise=1), FileError, "unknown field `surprise`"),
    (_edit_card(family="transformer"), FileError, "no model `transformer` for this input"),
    (_edit_card(family="mlp"), FileError, "no model `mlp` for this input"),
    (_edit_card(sizes={"hidden": 0}), FileError, "`model.sizes.hidden`: expected `int` >= 1"),
    (_edit_card(sizes={"hidden": 8}), FileError, "instead of torch.float32"),
    (_edit_card(features=["x"]), FileError, "`features` are not the ones"),
]


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES)
def test_damaged_files_are_refused(
    damage: Callable[[Path], Any], error: type[FedmodelsError], message: str, tmp_path: Path
) -> None:
    study = a_study("lstm", SERIES)
    save_model(tmp_path, build_model(study), study)
    load_model(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in caught.value.where
    assert caught.value.fix


def test_a_model_of_another_study_or_with_nan_is_not_saved(tmp_path: Path) -> None:
    study = a_study("lstm", SERIES)
    with pytest.raises(RunError, match="are missing"):
        save_model(tmp_path, GradSampleModule(build_model(a_study("mlp", TABLE))), study)
    with pytest.raises(RunError, match="instead of"):
        save_model(tmp_path, build_model(a_study("lstm", SERIES, "hidden = 8")), study)
    model = build_model(study)
    with torch.no_grad():
        model.output.bias[0] = torch.inf
    with pytest.raises(RunError, match=r"`output.bias` are not all finite"):
        save_model(tmp_path, model, study)
    assert list(tmp_path.iterdir()) == []
