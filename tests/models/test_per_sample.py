"""Every family can be trained privately: norms and clipped sums are those of one backward pass per record."""

import copy

import pytest
import torch
from model_studies import IMAGE_224, INPUTS, TEXT, a_batch, a_study
from torch import Tensor, nn

from fedmodels.dp.clipping import embedding
from fedmodels.dp.clipping.prepare import prepare
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
FACTORS = torch.tensor([0.3, 1.0, 0.0, 0.02, 0.7], dtype=torch.float64)

Gradients = dict[str, Tensor]


def oracle(model: nn.Module, x: Tensor, lengths: Tensor | None, y: Tensor) -> list[Gradients]:
    """One backward pass per record."""
    records = []
    for i in range(len(x)):
        model.zero_grad()
        one = slice(i, i + 1)
        loss_fn((1.0, 3.0, 0.5), "sum")(model(x[one], None if lengths is None else lengths[one]), y[one]).backward()
        records.append({name: p.grad.double().clone() for name, p in model.named_parameters()})
    return records


def check(model: nn.Module, batch: tuple[Tensor, Tensor | None, Tensor], tolerance: float) -> None:
    x, lengths, y = batch
    expected = oracle(copy.deepcopy(model), x, lengths, y)
    prepared = prepare(model)
    loss_fn((1.0, 3.0, 0.5), "sum")(prepared.model(x, lengths), y).backward()
    norms = torch.stack([torch.cat([g.reshape(-1) for g in record.values()]).norm() for record in expected])
    torch.testing.assert_close(prepared.book.norms(), norms, rtol=tolerance, atol=0.0)
    factors = FACTORS[: len(x)]
    prepared.book.add_clipped(factors)
    for name, p in prepared.model.named_parameters():
        total = sum(f * record[name] for f, record in zip(factors, expected, strict=True))
        error = float((prepared.book.sums[p] - total).norm())
        assert error <= tolerance * max(float(total.norm()), 1e-3), name
        assert p.grad is None


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_norms_and_sums_are_those_of_one_backward_per_record(name: str, sizes: str) -> None:
    check(build_model(a_study(name, INPUTS[name], sizes, labels=3)), a_batch(name, 5), 1e-5)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_in_double_precision_they_are_exact(name: str, sizes: str) -> None:
    x, lengths, y = a_batch(name, 5)
    batch = (x.double() if x.is_floating_point() else x, lengths, y)
    check(build_model(a_study(name, INPUTS[name], sizes, labels=3)).double(), batch, 1e-11)


ARTICLE = {
    "article-lstm": (INPUTS["lstm"], "lstm"),
    "article-text-lstm": (TEXT, "text-lstm"),
    "article-text-gru": (TEXT, "text-gru"),
}


@pytest.mark.parametrize("name", ARTICLE)
def test_the_articles_recurrent_models_agree_too(name: str) -> None:
    input_, like = ARTICLE[name]
    check(build_model(a_study(name, input_, labels=3)), a_batch(like, 5), 1e-5)


def test_the_norm_of_51_million_weights_is_right_without_making_their_gradients() -> None:
    model = build_model(a_study("article-cnn", IMAGE_224))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    check(model, (x, None, torch.tensor([0, 1])), 1e-5)


def test_the_comparison_would_notice_a_record_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of `check`: words that repeat, squared before instead of after adding up."""
    model = build_model(a_study("text-gru", INPUTS["text-gru"], labels=3))
    x, lengths, y = a_batch("text-gru", 5)
    batch = x.clamp(max=3), lengths, y
    check(model, batch, 1e-5)
    monkeypatch.setattr(embedding, "combined", lambda ids, outputs, size: outputs)
    with pytest.raises(AssertionError):
        check(model, batch, 1e-4)


@pytest.mark.parametrize("name", INPUTS)
def test_an_empty_poisson_batch_has_a_gradient_of_zero(name: str) -> None:
    prepared = prepare(build_model(a_study(name, INPUTS[name])))
    x, lengths, y = a_batch(name, 0)
    loss_fn((), "sum")(prepared.model(x, lengths), y).backward()
    assert prepared.book.norms().shape == (0,)
    prepared.book.add_clipped(prepared.book.norms())
    assert not any(total.any() for total in prepared.book.sums.values())


@pytest.mark.parametrize("name", INPUTS)
def test_a_prepared_model_computes_the_same_under_the_same_names(name: str) -> None:
    model = build_model(a_study(name, INPUTS[name]))
    prepared = prepare(model).model
    x, lengths, _ = a_batch(name, 4)
    torch.testing.assert_close(prepared(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-6)
    assert list(prepared.state_dict()) == list(model.state_dict())
    unflatten(prepared, flatten(model) * 2)
    model.load_state_dict(prepared.state_dict(), strict=True)
    prepared.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(prepared(x, lengths), model(x, lengths), rtol=1e-5, atol=1e-6)
