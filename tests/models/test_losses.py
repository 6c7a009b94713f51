"""Losses and probabilities against torch's own, record by record."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedmodels.models.losses import loss_fn, probabilities


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_the_sum_is_the_weighted_negative_log_probability_of_each_label(outputs: int) -> None:
    labels = max(2, outputs)
    logits, y = torch.randn(20, outputs, dtype=torch.float64), torch.arange(20) % labels
    weights = (0.5, 3.0, 1.0, 2.0)[:labels]
    chosen = probabilities(logits)[torch.arange(20), y]
    expected = -(torch.tensor(weights, dtype=torch.float64)[y] * chosen.log())
    torch.testing.assert_close(loss_fn(weights, "sum")(logits, y), expected.sum())
    torch.testing.assert_close(loss_fn(weights)(logits, y), expected.mean())
    torch.testing.assert_close(loss_fn((1.0,) * labels)(logits, y), loss_fn()(logits, y))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.sampled_from([1, 3]))
def test_a_record_counts_the_same_whatever_the_others_labels_are(split: int, outputs: int) -> None:
    logits, y = torch.randn(8, outputs), torch.arange(8) % 2
    loss = loss_fn((5.0, 0.1, 1.0), "sum")
    parts = loss(logits[:split], y[:split]) + loss(logits[split:], y[split:])
    torch.testing.assert_close(loss(logits, y), parts)


def test_the_mean_is_not_divided_by_the_weights_of_the_batch() -> None:
    logits, y = torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = (4.0, 1.0, 1.0)
    torch.testing.assert_close(loss_fn(weights)(logits, y) * 6, loss_fn(weights, "sum")(logits, y))
    assert not torch.allclose(loss_fn(weights)(logits, y), F.cross_entropy(logits, y, torch.tensor(weights)))


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_an_empty_batch_has_loss_zero(outputs: int) -> None:
    assert float(loss_fn((1.0, 2.0))(torch.zeros(0, outputs), torch.zeros(0, dtype=torch.int64))) == 0.0


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_probabilities_have_a_column_per_label_and_sum_to_one(outputs: int) -> None:
    p = probabilities(torch.randn(9, outputs) * 20)
    assert p.shape == (9, max(2, outputs))
    torch.testing.assert_close(p.sum(1), torch.ones(9))


def test_one_logit_is_the_log_odds_of_the_second_label() -> None:
    z = torch.tensor([[-40.0], [0.0], [2.0]], dtype=torch.float64)
    p = probabilities(z)
    torch.testing.assert_close(p[:, 1].log() - p[:, 0].log(), z[:, 0])


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_a_focal_loss_is_the_papers_formula(outputs: int) -> None:
    logits, y = torch.randn(20, outputs, dtype=torch.float64), torch.arange(20) % max(2, outputs)
    p = probabilities(logits)[torch.arange(20), y]
    expected = -((1 - p) ** 2) * p.log()
    torch.testing.assert_close(loss_fn((), "sum", 2.0)(logits, y), expected.sum())
    torch.testing.assert_close(loss_fn((), "sum", 0.0)(logits, y), -p.log().sum())


def test_a_focal_loss_has_a_finite_gradient_where_the_model_is_certain() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss_fn((), "sum", 0.5)(logits, torch.tensor([0, 0])).backward()
    assert bool(torch.isfinite(logits.grad).all())
