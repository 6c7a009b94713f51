"""Families and presets: sizes, counts derived by hand, strictness, determinism."""

import re
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_studies import IMAGE, IMAGE_224, INPUTS, SERIES, TABLE, TEXT, a_study
from torch import nn

from fedmodels.errors import FileError
from fedmodels.models import registry
from fedmodels.models.registry import (
    Family,
    Preset,
    build_model,
    families,
    model_with,
    parameter_count,
    presets,
    register,
)
from fedmodels.models.tabular import MlpSizes
from fedmodels.models.weights import flatten
from fedmodels.study_input import TableInput

# Recurrent layers have two biases per gate in torch: gates * hidden * (input + hidden + 2).
COUNTS = [
    # conv 1: 32 * (3*9) + 32 = 896; conv 2: 64 * (32*9) + 64 = 18,496; conv 3: 128 * (64*9) + 128 = 73,856;
    # dense: 512 * (128 * 28 * 28) + 512 = 51,380,736; output: 512 + 1 = 513.
    ("article-cnn", IMAGE_224, 2, 896 + 18_496 + 73_856 + 51_380_736 + 513),
    ("article-lstm", SERIES, 2, 4 * 128 * (8 + 128 + 2) + 64 * (128 + 1) + 2 * (64 + 1)),
    ("article-text-lstm", TEXT, 2, 50 * 128 + 4 * 128 * (128 + 128 + 2) + 2 * (128 + 1)),
    ("article-text-gru", TEXT, 2, 50 * 128 + 3 * 128 * (128 + 128 + 2) + 2 * (128 + 1)),
    # 3x3 convolutions 1 -> 16 -> 32 -> 32 with biases, 2 norm weights per channel, 28 -> 14 -> 7 -> 3 pixels, dense 64.
    ("cnn", IMAGE, 2, 16 * 10 + 32 * 145 + 32 * 289 + 2 * (16 + 32 + 32) + 64 * (32 * 9 + 1) + 65),
    ("lstm", SERIES, 2, 4 * 32 * (8 + 32 + 2) + 2 * 33),
    ("gru", SERIES, 2, 3 * 32 * (8 + 32 + 2) + 2 * 33),
    ("gru", SERIES, 5, 3 * 32 * (8 + 32 + 2) + 5 * 33),
    ("text-lstm", TEXT, 2, 50 * 32 + 4 * 32 * (32 + 32 + 2) + 2 * 33),
    ("text-gru", TEXT, 2, 50 * 32 + 3 * 32 * (32 + 32 + 2) + 2 * 33),
    ("mlp", TABLE, 2, 32 * (6 + 1) + 33),
    ("mlp", TABLE, 3, 32 * (6 + 1) + 3 * 33),
]


@pytest.mark.parametrize(("name", "input_", "labels", "count"), COUNTS)
def test_the_number_of_weights_is_the_one_derived_by_hand(name: str, input_: str, labels: int, count: int) -> None:
    assert parameter_count(build_model(a_study(name, input_, labels=labels))) == count


def test_the_article_cnn_has_the_published_number_of_weights_and_one_logit() -> None:
    model = build_model(a_study("article-cnn", IMAGE_224)).eval()
    assert parameter_count(model) == 51_474_497
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1)


def test_families_and_presets_are_listed() -> None:
    assert list(families()) == ["cnn", "gru", "lstm", "mlp", "text-gru", "text-lstm"]
    assert list(presets()) == ["article-cnn", "article-lstm", "article-text-gru", "article-text-lstm"]


def test_every_default_is_valid_and_every_preset_names_a_family() -> None:
    for family in families().values():
        sizes = family.sizes()
        assert msgspec.convert(msgspec.to_builtins(sizes), family.sizes, strict=True) == sizes
    assert all(type(preset.sizes) is families()[preset.family].sizes for preset in presets().values())


@pytest.mark.parametrize("name", INPUTS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(name: str) -> None:
    study = a_study(name, INPUTS[name])
    first, again, other = (build_model(study, seed).state_dict() for seed in (5, None, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", INPUTS)
def test_a_model_with_given_weights_is_the_one_that_they_came_from(name: str) -> None:
    study = a_study(name, INPUTS[name])
    built = build_model(study, 6)
    model = model_with(study, flatten(built))
    given = dict(model.named_parameters())
    assert model.training
    assert list(given) == [key for key, _ in built.named_parameters()]
    for key, parameter in built.named_parameters():
        assert torch.equal(parameter, given[key])
        assert given[key].requires_grad
        assert given[key].device.type == "cpu"


def test_a_model_with_buffers_is_refused_where_only_its_weights_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "skeleton", lambda *_: nn.BatchNorm1d(3, device="meta"))
    with pytest.raises(TypeError, match="buffers"):
        model_with(a_study("mlp", TABLE), np.zeros(6, np.float32))


@pytest.mark.parametrize("name", INPUTS)
def test_building_leaves_the_global_generator_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    build_model(a_study(name, INPUTS[name]))
    assert torch.equal(before, torch.get_rng_state())


WRONG_SIZES = [
    ("lstm", SERIES, "hiden = 3", "unknown key `model.sizes.hiden` .*is `hidden` meant.*hidden, dense, dropout, pool"),
    ("lstm", SERIES, "hidden = '3'", "`model.sizes.hidden`: expected `int`, got `str`"),
    ("lstm", SERIES, "hidden = true", "`model.sizes.hidden`: expected `int`, got `bool`"),
    ("lstm", SERIES, "hidden = 0", "`model.sizes.hidden`: expected `int` >= 1"),
    ("text-gru", TEXT, "pool = 'sum'", "`model.sizes.pool`: invalid enum value 'sum'"),
    ("cnn", IMAGE, "channels = []", "`model.sizes.channels`: expected `array` of length >= 1"),
    ("cnn", IMAGE, "channels = [4, 0]", "`model.sizes.channels`: expected `int` >= 1"),
    ("cnn", IMAGE, "channels = [4, 4, 4, 4, 4]", "`model.sizes.channels`.*28 x 28.*at most 4 convolutions"),
    ("mlp", TABLE, "dropout = 1.0", "`model.sizes.dropout`: expected `float` < 1.0"),
    ("article-lstm", SERIES, "hidden = 64", "`model.sizes.hidden`: the sizes of the preset `article-lstm` are fixed"),
    ("article-text-gru", TEXT, "embedding = 64", "`model.sizes.embedding`: .* `text-gru`"),
]


@pytest.mark.parametrize(("name", "input_", "sizes", "message"), WRONG_SIZES)
def test_wrong_sizes_are_refused_by_name(name: str, input_: str, sizes: str, message: str) -> None:
    with pytest.raises(FileError, match="(?s)" + message):
        build_model(a_study(name, input_, sizes))


WRONG_MODELS = [
    ("lstm", IMAGE, 2, "`lstm` is for series input, `input.modality` is `image`.*one of: cnn, article-cnn"),
    ("article-text-gru", TABLE, 2, "`article-text-gru` is for text input.*one of: mlp$"),
    ("text-lsmt", TEXT, 2, "there is no model `text-lsmt` .is `text-lstm` meant.*: text-gru, text-lstm, article-text"),
    ("article-cnn", IMAGE, 2, "224 x 224 x 3 images, `input` has 28 x 28 x 1"),
    ("article-cnn", IMAGE_224, 3, "one sigmoid output, `study.labels` has 3 labels"),
]


@pytest.mark.parametrize(("name", "input_", "labels", "message"), WRONG_MODELS)
def test_a_model_that_does_not_fit_the_study_is_refused(name: str, input_: str, labels: int, message: str) -> None:
    with pytest.raises(FileError, match="(?s)" + message):
        build_model(a_study(name, input_, labels=labels))


def test_logistic_regression_is_an_mlp_without_hidden_layers() -> None:
    model = build_model(a_study("mlp", TABLE, "hidden = []"))
    assert [name for name, _ in model.named_parameters()] == ["output.weight", "output.bias"]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    st.integers(8, 20),
    st.integers(8, 20),
    st.sampled_from(["none", "group"]),
)
def test_any_sizes_that_are_accepted_can_be_run(channels: list[int], height: int, width: int, norm: str) -> None:
    sizes = f"channels = {channels}\nnorm = '{norm}'\ndense = 3"
    model = build_model(a_study("cnn", f"modality = 'image'\nheight = {height}\nwidth = {width}", sizes, labels=4))
    assert model(torch.zeros(2, 1, height, width)).shape == (2, 4)


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    families()
    monkeypatch.setattr(registry, "_families", dict(registry._families))
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    return


@pytest.mark.usefixtures("_own_registry")
def test_a_family_is_usable_as_soon_as_it_is_registered() -> None:
    register(Family("linear", TableInput, MlpSizes, lambda sizes, input_, outputs: nn.Linear(6, outputs), 2))
    assert build_model(a_study("linear", TABLE)).out_features == 2


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize("name", ["mlp", "article-cnn"])
def test_a_name_is_registered_once(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'{name}'")):
        register(Preset(name, "mlp", MlpSizes()))
