"""Shares with known answers: linear models, completeness, and models of which it is known what they go by."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from model_studies import IMAGE, INPUTS, SERIES, TABLE, a_batch, a_study
from planted import SIGNAL, STEPS, corners, images, series, texts
from torch import Tensor, nn

from fedmodels.errors import UsageError
from fedmodels.evaluation.explanations import attribution
from fedmodels.evaluation.explanations.attribution import (
    Attribution,
    explain_image,
    explain_series,
    explain_table,
    explain_text,
    grad_cam,
)
from fedmodels.evaluation.explanations.figures import neighbourhoods
from fedmodels.models.losses import log_odds, probabilities
from fedmodels.models.registry import build_model


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_log_odds_are_those_of_the_probabilities(outputs: int) -> None:
    logits = 3 * torch.randn(50, outputs, dtype=torch.float64)
    p = probabilities(logits)
    assert torch.allclose(log_odds(logits), torch.log(p / (1 - p)), atol=1e-9)


def test_log_odds_of_what_is_all_but_certain_are_finite() -> None:
    assert log_odds(torch.tensor([[200.0, 0.0, -200.0]])).tolist() == [[200.0, -200.0, -400.0]]


ROW = torch.tensor([[0.9, 0.0, 0.0, 1.0, 0.0, 0.0]])  # n = 0.9, k = y
MIDDLE = torch.tensor([0.5, 0.0, 1 / 3, 1 / 3, 1 / 3, 0.0])


@pytest.mark.parametrize(("label", "sign"), [(1, 1.0), (0, -1.0)])
def test_the_shares_of_a_logistic_regression_are_its_weights_times_the_differences(label: int, sign: float) -> None:
    study = a_study("mlp", TABLE, "hidden = []")
    model = build_model(study).eval()
    products = sign * (model.output.weight[0] * (ROW[0] - MIDDLE)).detach().double().numpy()
    shares = explain_table(model, ROW, study.input, label)
    assert shares.values == pytest.approx([products[:2].sum(), products[2:].sum()], abs=1e-6)
    assert shares.record == pytest.approx(sign * model(ROW).item(), abs=1e-6)
    assert shares.complete


def test_a_missing_value_counts_by_its_indicator() -> None:
    study = a_study("mlp", TABLE, "hidden = []")
    model = build_model(study).eval()
    row = torch.tensor([[0.5, 1.0, 0.0, 1.0, 0.0, 0.0]])
    shares = explain_table(model, row, study.input, 1)
    assert shares.values[0] == pytest.approx(model.output.weight[0, 1].item(), abs=1e-6)


def _explain(name: str, model: nn.Module, x: Tensor, lengths: Tensor | None, label: int) -> Attribution:
    match name.removeprefix("text-"), name.startswith("text-"):
        case "cnn", _:
            return explain_image(model, x.clamp(-1.0, 1.0), label)
        case "mlp", _:
            return explain_table(model, x, a_study(name, TABLE).input, label)
        case _, True:
            return explain_text(model, x, lengths, label)
        case _:
            return explain_series(model, x, lengths, a_study(name, SERIES).input, label)


@pytest.mark.parametrize("name", INPUTS)
def test_the_shares_add_up_for_every_family_and_label_and_come_out_the_same_again(name: str) -> None:
    model = build_model(a_study(name, INPUTS[name], "dropout = 0.5", labels=3)).eval()
    x, lengths, _ = a_batch(name, 1)
    for label in range(3):
        shares = _explain(name, model, x, lengths, label)
        assert shares.complete
        assert shares.values.sum() == pytest.approx(shares.record - shares.baseline, abs=0.05)
    assert np.array_equal(shares.values, _explain(name, model, x, lengths, 2).values)
    assert all(p.grad is None for p in model.parameters())


def test_on_a_fixed_grid_they_would_not_add_up_and_that_would_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "_PIECES", 1)
    model = build_model(a_study("cnn", IMAGE, labels=3)).eval()
    assert not explain_image(model, a_batch("cnn", 1)[0].clamp(-1.0, 1.0), 1).complete


def test_integrated_gradients_of_an_image_lie_in_the_patch_that_makes_the_label() -> None:
    (model, x, _, y), places = images()
    for row in np.flatnonzero(y.numpy() == 1)[:3].tolist():
        smooth = neighbourhoods(explain_image(model, x[row : row + 1], 1).values)
        rows, columns = corners(places[row])
        assert smooth[rows, columns].clip(0).sum() > 0.4 * smooth.clip(0).sum()  # 0.08 of the area


def test_grad_cam_of_an_image_lies_in_the_patch_that_makes_the_label() -> None:
    (model, x, _, y), places = images()
    for row in np.flatnonzero(y.numpy() == 1)[:3].tolist():
        cam = grad_cam(model, x[row : row + 1], 1)
        rows, columns = corners(places[row])
        assert (cam.min() >= 0.0, cam.max()) == (True, 1.0)
        assert cam[rows, columns].sum() > 0.3 * cam.sum()  # 0.08 of the area


def test_grad_cam_is_not_taken_before_a_normalisation_where_it_is_nothing() -> None:
    model = build_model(a_study("cnn", IMAGE, "channels = [8, 8]")).eval()  # one channel per group
    x = a_batch("cnn", 1)[0].clamp(-1.0, 1.0)
    before = LayerGradCam(lambda x: log_odds(model(x)), model.features[-1][0]).attribute(x, target=0)
    assert before.abs().max() < 1e-5
    assert np.ptp(grad_cam(model, x, 0)) > 0.1


def test_shares_of_a_series_lie_on_the_variable_and_the_hour_that_make_the_label() -> None:
    model, x, lengths, y = series()
    hits = 0
    for row in range(10):
        values = explain_series(
            model, x[row : row + 1], lengths[row : row + 1], a_study("gru", SERIES).input, int(y[row])
        ).values
        assert values.shape == (3, STEPS)  # a, b and the static c
        hits += np.unravel_index(values.argmax(), values.shape) == (1, STEPS - 1)
    assert hits >= 8


def test_what_lies_behind_the_end_of_a_record_has_no_share() -> None:
    study = a_study("gru", SERIES)
    x, _, _ = a_batch("gru", 1)
    values = explain_series(build_model(study).eval(), x, torch.tensor([4]), study.input, 1).values
    assert np.all(values[:, 4:] == 0)
    assert np.all(values[:, :4] != 0)


def test_the_share_of_a_text_lies_on_the_token_that_makes_the_label() -> None:
    model, x, lengths, y = texts()
    rows = np.flatnonzero(y.numpy() == 1)[:10].tolist()
    hits = 0
    for row in rows:
        values = explain_text(model, x[row : row + 1], lengths[row : row + 1], 1).values
        hits += int(x[row, values.argmax()]) == SIGNAL
    assert hits >= 9


def test_padding_has_no_share() -> None:
    model, x, _, _ = texts()
    assert explain_text(model, x[:1], torch.tensor([3]), 1).values.shape == (3,)


def test_models_that_cannot_be_explained_are_refused_with_a_reason() -> None:
    with pytest.raises(UsageError, match="needs a model with a convolution"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), torch.zeros(1, 1, 28, 28), 0)
    with pytest.raises(UsageError, match="0 embeddings"):
        explain_text(nn.Linear(7, 1), torch.zeros(1, 7), torch.tensor([7]), 0)
