"""`FastLstm` and `FastGru` under stock Opacus: stock state dicts, per-record gradients, norms, a whole private step."""

import copy

import pytest
import torch
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from fedmodels.dp.clipping import registered
from fedmodels.dp.clipping.registered import FastGru, FastLstm
from fedmodels.errors import PrivacyError

KINDS = [(FastLstm, nn.LSTM), (FastGru, nn.GRU)]
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}]


class Model(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)
        self.out = nn.Linear(4 * (1 + self.rnn.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


def batch(size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(size, 6, 3, generator=generator), torch.randint(0, 2, (size,), generator=generator)


def oracle(model: nn.Module) -> dict[str, Tensor]:
    x, y = batch()
    records = []
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1], reduction="sum").backward()
        records.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return {name: torch.stack([r[name] for r in records]) for name in records[0]}


@pytest.mark.parametrize(("fast", "stock"), KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_state_dicts_are_the_stock_layers_both_ways(fast: type, stock: type, options: dict[str, object]) -> None:
    ours, theirs = Model(fast, **options), Model(stock, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x, _ = batch()
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(("fast", "stock"), KINDS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hooks_mode_gives_the_gradients_of_one_backward_per_record(
    fast: type, stock: type, options: dict[str, object], reduction: str
) -> None:
    model = Model(stock, **options)
    ours = Model(fast, **options)
    ours.load_state_dict(model.state_dict())
    wrapped = GradSampleModule(ours, batch_first=True, loss_reduction=reduction)
    x, y = batch()
    nn.functional.cross_entropy(wrapped(x), y, reduction=reduction).backward()
    for name, expected in oracle(model).items():
        parameter = ours.get_parameter(name)
        torch.testing.assert_close(parameter.grad_sample, expected, rtol=1e-5, atol=1e-7)
        total = expected.sum(0) / (len(x) if reduction == "mean" else 1)
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("fast", "stock"), KINDS)
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.filterwarnings("ignore:Secure RNG turned off")
def test_a_step_of_the_stock_privacy_engine(fast: type, stock: type, mode: str) -> None:
    """Without noise, so that the clipped mean can be compared; every norm is above the clip of 0.01."""
    reference = Model(stock)
    model = Model(fast)
    model.load_state_dict(reference.state_dict())
    before = copy.deepcopy(reference.state_dict())
    x, y = batch()
    private = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        criterion=nn.CrossEntropyLoss(), data_loader=DataLoader(TensorDataset(x, y), batch_size=len(x)),
        noise_multiplier=0.0, max_grad_norm=0.01, grad_sample_mode=mode, poisson_sampling=False,
    )  # fmt: skip
    wrapped, optimizer = private[0], private[1]
    loss = private[2] if mode == "ghost" else nn.CrossEntropyLoss()
    assert mode != "ghost" or isinstance(loss, DPLossFastGradientClipping)
    optimizer.zero_grad()
    loss(wrapped(x), y).backward()
    optimizer.step()
    samples = oracle(reference)
    norms = torch.stack([s.flatten(1).square().sum(1) for s in samples.values()]).sum(0).sqrt()
    assert float(norms.min()) > 0.01
    for name, expected in samples.items():
        step = torch.einsum("n,n...->...", 0.01 / norms, expected) / len(x)
        torch.testing.assert_close(before[name] - model.get_parameter(name), step, rtol=1e-3, atol=1e-7)


class Twice(Model):
    """The layer reads the sequence forwards and backwards, with the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1) + 2 * self.rnn(x.flip(1))[0].mean(1))


@pytest.mark.parametrize(("fast", "stock"), KINDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_layer_that_is_called_twice_has_the_gradients_of_both_calls(fast: type, stock: type, reduction: str) -> None:
    model, ours = Twice(stock), Twice(fast)
    ours.load_state_dict(model.state_dict())
    wrapped = GradSampleModule(ours, batch_first=True, loss_reduction=reduction)
    x, y = batch()
    nn.functional.cross_entropy(wrapped(x), y, reduction=reduction).backward()
    for name, expected in oracle(model).items():
        torch.testing.assert_close(ours.get_parameter(name).grad_sample, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fast", [FastLstm, FastGru])
def test_gradients_that_were_read_are_not_read_again(fast: type) -> None:
    model, (x, _) = Model(fast), batch()
    model(x).sum().backward()  # without Opacus nobody reads them
    states, _ = model.rnn(x)
    states.sum().backward()
    assert len(model.rnn.notes) == 1
    registered.grad_sampler(model.rnn, [x], torch.ones_like(states))
    with pytest.raises(PrivacyError, match="was read before"):
        registered.grad_sampler(model.rnn, [x], torch.ones_like(states))


def test_the_comparison_would_notice_a_sampler_without_the_factor_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stock = Model(FastLstm), Model(nn.LSTM)
    stock.load_state_dict(model.state_dict())
    made = registered._made
    monkeypatch.setattr(registered, "_made", lambda entry: made(entry) / entry.records)
    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="mean")
    x, y = batch()
    nn.functional.cross_entropy(wrapped(x), y).backward()
    right = oracle(stock)["rnn.weight_hh_l0"]
    assert not torch.allclose(model.rnn.weight_hh_l0.grad_sample, right, rtol=1e-2)


def test_what_opacus_cannot_sample_is_refused() -> None:
    x, _ = batch()
    with pytest.raises(PrivacyError, match="packed"):
        FastLstm(3, 4)(pack_padded_sequence(x, torch.full((5,), 6), batch_first=True))
    with pytest.raises(PrivacyError, match="projections"):
        FastLstm(3, 4, proj_size=2)
