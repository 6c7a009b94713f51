"""Dense, convolution and embedding layers under stock Opacus: state dicts, gradients, norms, steps, empty batches."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleHooksFastGradientClipping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedmodels.dp.clipping import registered
from fedmodels.dp.clipping.registered import FastConv1d, FastConv2d, FastConv3d, FastEmbedding, FastGru, FastLinear
from fedmodels.errors import PrivacyError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]
Make = Callable[[bool], nn.Module]  # fast or stock


def layer(fast: type[nn.Module], stock: type[nn.Module], *args: Any, **options: Any) -> Make:
    return lambda ours: (fast if ours else stock)(*args, **options)


CASES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "linear": (layer(FastLinear, nn.Linear, 5, 3), (5,)),
    "linear without bias": (layer(FastLinear, nn.Linear, 5, 3, bias=False), (5,)),
    "linear, several positions": (layer(FastLinear, nn.Linear, 5, 3), (4, 5)),
    "linear, a grid of positions": (layer(FastLinear, nn.Linear, 5, 3), (2, 3, 5)),
    "linear, many weights": (layer(FastLinear, nn.Linear, 60, 50), (60,)),
    "conv1d": (layer(FastConv1d, nn.Conv1d, 3, 4, 3, stride=2, padding=1), (3, 9)),
    "conv1d, circular": (layer(FastConv1d, nn.Conv1d, 3, 4, 3, padding=1, padding_mode="circular"), (3, 9)),
    "conv2d, few channels": (layer(FastConv2d, nn.Conv2d, 1, 4, 3, padding=1), (1, 7, 8)),
    "conv2d": (layer(FastConv2d, nn.Conv2d, 8, 4, 3, stride=2, padding=1), (8, 7, 8)),
    "conv2d, same": (layer(FastConv2d, nn.Conv2d, 2, 4, 4, padding="same", dilation=2), (2, 9, 8)),
    "conv2d, groups": (layer(FastConv2d, nn.Conv2d, 4, 6, 3, groups=2, bias=False), (4, 7, 6)),
    "conv2d, large": (layer(FastConv2d, nn.Conv2d, 4, 3, 3, padding=1), (4, 64, 64)),
    "conv3d": (layer(FastConv3d, nn.Conv3d, 2, 3, 2), (2, 4, 5, 4)),
    "embedding": (layer(FastEmbedding, nn.Embedding, 9, 4), (6,)),
    "embedding, a row unused": (layer(FastEmbedding, nn.Embedding, 9, 4, padding_idx=2), (6,)),
    "embedding, one id": (layer(FastEmbedding, nn.Embedding, 9, 4), ()),
}


class Model(nn.Module):
    """The layer, then something that makes the loss of a record a nonlinear function of its outputs."""

    def __init__(self, make: Make, ours: bool) -> None:
        super().__init__()
        self.layer = make(ours)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).flatten(1)
        return torch.stack((y.sin().mean(1), y.square().mean(1)), 1)


def batch(shape: tuple[int, ...], words: bool, size: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 9, (size, *shape), generator=generator)
    if not words:
        x = torch.randn(size, *shape, generator=generator)
    return x, torch.randint(0, 2, (size,), generator=generator)


def pair(name: str) -> tuple[Model, Model, Tensor, Tensor]:
    """(ours, stock with the same weights, x, y)"""
    torch.manual_seed(1)
    make, shape = CASES[name]
    ours, stock = Model(make, True), Model(make, False)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours, stock, *batch(shape, "embedding" in name)


def oracle(stock: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Per-record gradients in float64, one backward pass each."""
    model = copy.deepcopy(stock).double()
    x = x.double() if x.is_floating_point() else x
    records = []
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1], reduction="sum").backward()
        records.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return {name: torch.stack([r[name] for r in records]) for name in records[0]}


def norms_of(samples: dict[str, Tensor]) -> Tensor:
    return torch.stack([s.flatten(1).square().sum(1) for s in samples.values()]).sum(0).sqrt()


def close(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the longest record's gradient."""
    assert found.shape == expected.shape
    assert float((found.double() - expected).abs().max()) <= 1e-5 * float(expected.flatten(1).norm(dim=1).max())


def engine(model: nn.Module, mode: str, data: tuple[Tensor, Tensor], clip: float = 0.01) -> tuple[Any, Any, Any]:
    """(module, optimizer, criterion) of the stock engine without noise; SGD of rate 1."""
    private = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        criterion=nn.CrossEntropyLoss(), data_loader=DataLoader(TensorDataset(*data), batch_size=len(data[0])),
        noise_multiplier=0.0, max_grad_norm=clip, grad_sample_mode=mode, poisson_sampling=False,
    )  # fmt: skip
    return private[0], private[1], private[2] if mode == "ghost" else nn.CrossEntropyLoss()


@pytest.mark.parametrize("name", CASES)
def test_state_dicts_and_outputs_are_the_stock_layers(name: str) -> None:
    ours, stock, x, _ = pair(name)
    stock.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(ours(x), stock(x))
    assert isinstance(ours.layer, type(stock.layer))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", CASES)
def test_hooks_mode_gives_the_gradients_of_one_backward_per_record(name: str, reduction: str) -> None:
    ours, stock, x, y = pair(name)
    wrapped = GradSampleModule(ours, batch_first=True, loss_reduction=reduction)
    nn.functional.cross_entropy(wrapped(x), y, reduction=reduction).backward()
    for key, expected in oracle(stock, x, y).items():
        close(ours.get_parameter(key).grad_sample, expected)


@pytest.mark.parametrize("name", CASES)
def test_ghost_mode_gives_the_norms_of_one_backward_per_record(name: str) -> None:
    ours, stock, x, y = pair(name)
    wrapped, _, loss = engine(ours, "ghost", (x, y))
    loss(wrapped(x), y).backward()
    torch.testing.assert_close(
        wrapped.per_sample_gradient_norms.double(), norms_of(oracle(stock, x, y)), rtol=1e-5, atol=0.0
    )


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize("name", CASES)
def test_a_step_of_the_stock_privacy_engine(name: str, mode: str) -> None:
    """Without noise, so that the clipped mean can be compared; every norm is above the clip."""
    ours, stock, x, y = pair(name)
    samples, clip = oracle(stock, x, y), 0.001
    norms = norms_of(samples)
    assert float(norms.min()) > clip
    wrapped, optimizer, loss = engine(ours, mode, (x, y), clip)
    optimizer.zero_grad()
    loss(wrapped(x), y).backward()
    optimizer.step()
    for key, expected in samples.items():
        step = torch.einsum("n,n...->...", clip / (norms + 1e-6), expected) / len(x)  # 1e-6: Opacus's own
        moved = stock.get_parameter(key).double() - ours.get_parameter(key).double()
        torch.testing.assert_close(moved, step, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize("name", CASES)
def test_a_batch_without_records_takes_a_step_that_is_noise_alone(name: str, mode: str) -> None:
    ours, stock, x, y = pair(name)
    wrapped, optimizer, loss = engine(ours, mode, (x, y))
    optimizer.zero_grad()
    loss(wrapped(x[:0]), y[:0]).backward()
    optimizer.step()
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


def test_the_comparison_would_notice_wrong_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: those of the first of two positions alone."""
    made = registered.linear.Dense.entries
    monkeypatch.setattr(registered.linear.Dense, "entries", lambda self, x, g: made(self, x[:, :1], g[:, :1]))
    with pytest.raises(AssertionError):
        test_hooks_mode_gives_the_gradients_of_one_backward_per_record("linear, several positions", "sum")
    with pytest.raises(AssertionError):
        test_ghost_mode_gives_the_norms_of_one_backward_per_record("linear, several positions")


def length_of_a_step(kind: type[nn.Linear], mode: str) -> float:
    """Of one record alone, over the clip. Its gradient begins with large numbers, beside which small ones are lost."""
    width = 1024
    model = nn.Sequential(kind(width, width, bias=False))
    large = torch.cat((torch.full((4,), 256.0), torch.ones(width - 4)))

    def criterion(y: Tensor, target: Tensor) -> Tensor:
        each = (y * large).sum(1)
        return each if getattr(criterion, "reduction", "mean") == "none" else each.mean()

    criterion.reduction = "mean"  # type: ignore[attr-defined]
    before = model[0].weight.detach().clone()
    x, y = torch.ones(1, width), torch.zeros(1)
    private = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), criterion=criterion,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=1),
        noise_multiplier=0.0, max_grad_norm=1024.0, grad_sample_mode=mode, poisson_sampling=False,
    )  # fmt: skip
    loss = private[2] if mode == "ghost" else criterion
    loss(private[0](x), y).backward()
    private[1].step()
    return float((before.double() - model[0].weight.detach().double()).norm()) / 1024.0


def test_a_long_gradient_is_not_measured_too_short() -> None:
    """Opacus's own hooks mode passes on more than the clip of a layer with 2^20 weights."""
    assert length_of_a_step(nn.Linear, "hooks") > 1.0 + 5e-5
    for mode in ("hooks", "ghost"):
        assert length_of_a_step(FastLinear, mode) == pytest.approx(1.0, abs=1e-5)


def test_a_model_of_them_all_and_stock_layers() -> None:
    """Types of norms mix: those of long gradients are double."""

    class Words(nn.Module):
        def __init__(self, fast: bool) -> None:
            super().__init__()
            self.words = (FastEmbedding if fast else nn.Embedding)(300, 8)
            self.near = (FastConv1d if fast else nn.Conv1d)(8, 6, 3)
            self.order = FastGru(6, 5, batch_first=True)
            self.middle = nn.Linear(5, 4)
            self.out = (FastLinear if fast else nn.Linear)(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.near(self.words(x).mT).mT
            return self.out(self.middle(self.order(x)[0].mean(1)).tanh())

    for mode in ("hooks", "ghost"):
        torch.manual_seed(3)
        ours, stock = Words(True), Words(False)
        ours.load_state_dict(stock.state_dict(), strict=True)
        x, y = torch.randint(0, 300, (4, 7)), torch.tensor([0, 1, 1, 0])
        wrapped, optimizer, loss = engine(ours, mode, (x, y), 0.001)
        optimizer.zero_grad()
        loss(wrapped(x), y).backward()
        optimizer.step()
        samples = oracle(stock, x, y)
        factors = 0.001 / (norms_of(samples) + 1e-6)
        for key, expected in samples.items():
            moved = stock.get_parameter(key).double() - ours.get_parameter(key).double()
            step = torch.einsum("n,n...->...", factors, expected) / len(x)
            torch.testing.assert_close(moved, step, rtol=1e-3, atol=2e-7)


def test_a_frozen_parameter_gets_no_gradient() -> None:
    ours, stock, x, y = pair("linear")
    ours.layer.bias.requires_grad_(False)
    wrapped = GradSampleModule(ours, loss_reduction="sum")
    nn.functional.cross_entropy(wrapped(x), y, reduction="sum").backward()
    close(ours.layer.weight.grad_sample, oracle(stock, x, y)["layer.weight"])
    assert getattr(ours.layer.bias, "grad_sample", None) is None


def test_stock_layers_keep_the_samplers_of_opacus() -> None:
    for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding):
        for samplers in (GradSampleHooks.GRAD_SAMPLERS, GradSampleHooksFastGradientClipping.NORM_SAMPLERS):
            assert getattr(samplers.get(kind), "__module__", "opacus").startswith("opacus")


def test_what_opacus_cannot_sample_is_refused() -> None:
    with pytest.raises(PrivacyError, match="max_norm"):
        FastEmbedding(4, 2, max_norm=1.0)
    with pytest.raises(PrivacyError, match="max_norm"):
        FastEmbedding(4, 2, sparse=True)
    with pytest.raises(PrivacyError, match="batch dimension"):
        GradSampleModule(FastLinear(4, 2))(torch.ones(4)).sum().backward()
    with pytest.raises(PrivacyError, match="batch dimension"):
        GradSampleModule(FastConv2d(1, 2, 2))(torch.ones(1, 4, 4)).sum().backward()
    with pytest.raises(PrivacyError, match="mixed precision"), torch.autocast("cpu", torch.bfloat16):
        GradSampleModule(FastLinear(4, 2))(torch.ones(3, 4)).sum().backward()
    twice = FastLinear(4, 4)
    wrapped, _, _ = engine(nn.Sequential(twice, twice), "ghost", (torch.ones(2, 4), torch.zeros(2, dtype=torch.long)))
    with pytest.raises(NotImplementedError, match="tying"):
        wrapped(torch.ones(2, 4))


ADAPTIVE = {
    "target_unclipped_quantile": 0.5, "clipbound_learning_rate": 0.2, "max_clipbound": 10.0, "min_clipbound": 0.1,
    "unclipped_num_std": 2.0,
}  # fmt: skip
NOT_FLAT: dict[str, dict[str, Any]] = {
    "per_layer": {"max_grad_norm": [1.0, 1.0]},
    "adaptive": {"max_grad_norm": 1.0, **ADAPTIVE},
}


@pytest.mark.parametrize("clipping", NOT_FLAT)
def test_optimizers_of_opacus_that_take_no_double_precision_raise_and_change_nothing(clipping: str) -> None:
    """Those of flat clipping take it. Where this fails, the sharp edge in the module's docstring is gone."""
    model = nn.Sequential(FastLinear(60, 50))
    before, x, y = copy.deepcopy(model.state_dict()), torch.randn(4, 60), torch.zeros(4, dtype=torch.long)
    wrapped, optimizer, _ = PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0), clipping=clipping,
        data_loader=DataLoader(TensorDataset(x, y), batch_size=4), noise_multiplier=1.0, poisson_sampling=False,
        **NOT_FLAT[clipping],
    )  # fmt: skip
    nn.functional.cross_entropy(wrapped(x), y).backward()
    with pytest.raises(RuntimeError, match=r"dtype|[Dd]ouble"):
        optimizer.step()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


class Mixed(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = FastLinear(5, 2) if kind == "linear" else FastGru(5, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return (out if isinstance(out, Tensor) else out[0]).mean(1)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize("kind", ["linear", "gru"])
def test_matrix_products_of_shortened_factors_are_refused(kind: str, mode: str) -> None:
    x, y = torch.randn(4, 6, 5), torch.zeros(4, dtype=torch.long)
    wrapped, _, loss = engine(Mixed(kind), mode, (x, y))
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(PrivacyError, match="multiply matrices in"):
            loss(wrapped(x), y).backward()
    finally:
        torch.set_float32_matmul_precision("highest")
