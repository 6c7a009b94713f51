"""Every family can be trained with Opacus: its per-sample gradients are those of one backward pass per record."""

import copy

import pytest
import torch
from model_studies import INPUTS, a_batch, a_study
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedmodels.dp.gradients import per_sample
from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten, unflatten

CASES = [
    *((name, "") for name in INPUTS),
    ("cnn", "norm = 'none'"),
    ("lstm", "dense = 5\npool = 'max'"),
    ("text-gru", "pool = 'last'"),
    ("mlp", "hidden = []"),
]


def oracle(model: nn.Module, x: Tensor, lengths: Tensor | None, y: Tensor) -> list[dict[str, Tensor]]:
    """One backward pass per record."""
    records = []
    for i in range(len(x)):
        model.zero_grad()
        one = slice(i, i + 1)
        loss_fn((1.0, 3.0, 0.5), "sum")(model(x[one], None if lengths is None else lengths[one]), y[one]).backward()
        records.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return records


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_per_sample_gradients_are_those_of_one_backward_per_record(name: str, sizes: str) -> None:
    model = build_model(a_study(name, INPUTS[name], sizes, labels=3))
    x, lengths, y = a_batch(name, 5)
    expected = oracle(model, x, lengths, y)
    private = per_sample(copy.deepcopy(model))
    assert ModuleValidator.validate(private._module, strict=False) == []
    loss_fn((1.0, 3.0, 0.5), "sum")(private(x, lengths), y).backward()
    for key, p in private._module.named_parameters():
        for i, record in enumerate(expected):
            scale = float(record[key].norm())
            assert float((p.grad_sample[i] - record[key]).norm()) <= 1e-5 * max(scale, 1e-3), (key, i)


@pytest.mark.parametrize("name", INPUTS)
def test_an_empty_poisson_batch_has_logits_and_a_gradient_of_zero(name: str) -> None:
    model = build_model(a_study(name, INPUTS[name]))
    x, lengths, y = a_batch(name, 0)
    loss_fn()(model(x, lengths), y).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["lstm", "gru", "text-lstm", "text-gru"])
def test_the_private_layers_compute_the_same_with_the_same_vector_of_weights(name: str) -> None:
    model = build_model(a_study(name, INPUTS[name]))
    private = per_sample(copy.deepcopy(model))
    x, lengths, _ = a_batch(name, 4)
    torch.testing.assert_close(private(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-6)
    assert flatten(private).tolist() == flatten(model).tolist()
    unflatten(private, flatten(model) * 2)
    unflatten(model, flatten(private))
    torch.testing.assert_close(private(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-6)
