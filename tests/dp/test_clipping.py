"""Every layer kind against one backward pass per record in float64, and everything that must be refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fedmodels.dp.clipping import convolution, entries, normalisation
from fedmodels.dp.clipping.memory import physical_batch
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import clip_factors
from fedmodels.errors import PrivacyError


class Alone(nn.Module):
    """A layer, its outputs times fixed random numbers: every output matters differently."""

    def __init__(self, layer: nn.Module, finals: bool = True) -> None:
        super().__init__()
        self.layer, self.finals = layer, finals

    def forward(self, *inputs: Any) -> Tensor:
        outputs = self.layer(*inputs)
        if not isinstance(self.layer, nn.LSTM | nn.GRU):
            return weighted(outputs)
        states, final = outputs
        if isinstance(states, PackedSequence):
            states = pad_packed_sequence(states, batch_first=True)[0]
        elif not self.layer.batch_first:
            states = states.transpose(0, 1)
        finals = (final if isinstance(final, tuple) else (final,)) if self.finals else ()
        return weighted(states) + sum(weighted(f.transpose(0, 1)) for f in finals)


class TimeFirst(Alone):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1))


def weighted(values: Tensor) -> Tensor:
    """[n] from [n, ...]; a record's own weights depend on its values' place, not on the batch."""
    flat = values.flatten(1)
    return (flat * torch.linspace(-1, 2, 1000, dtype=values.dtype)[: flat.shape[1]]).sum(1)


def compare(model: nn.Module, inputs: list[tuple[Any, ...]], together: tuple[Any, ...], tolerance: float) -> None:
    """inputs: per record, for a batch of one; together: the same records as one batch."""
    records = []
    for one in inputs:
        model.zero_grad()
        model(*one).sum().backward()
        records.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trainable(model)})
    norms = torch.stack([torch.cat([g.flatten() for g in r.values()]).norm() for r in records]).double()
    prepared = prepare(model)
    prepared.model(*together).sum().backward()
    torch.testing.assert_close(prepared.book.norms(), norms, rtol=tolerance, atol=0.0)
    factors = torch.linspace(0.2, 1.0, len(records), dtype=torch.float64)
    prepared.book.add_clipped(factors)
    for name, p in trainable(prepared.model):
        total = sum(f * r[name] for f, r in zip(factors, records, strict=True))
        torch.testing.assert_close(prepared.book.sums[p].to(total), total, rtol=tolerance, atol=tolerance)


def trainable(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def rows(x: Tensor) -> list[tuple[Tensor]]:
    return [(x[i : i + 1],) for i in range(len(x))]


def frozen(layer: nn.Module, name: str) -> nn.Module:
    layer.get_parameter(name).requires_grad_(False)
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "linear, no bias": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "linear, frozen weight": (lambda: frozen(nn.Linear(5, 3), "weight"), (5,)),
    "linear, two positions of a wide layer": (lambda: nn.Linear(50, 30), (2, 50)),
    "linear, many positions": (lambda: nn.Linear(3, 2), (2, 9, 3)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (3, 8, 7)),
    "convolution, stride and dilation": (lambda: nn.Conv2d(3, 4, (3, 2), (2, 1), (0, 2), (1, 2)), (3, 9, 8)),
    "convolution, even kernel": (lambda: nn.Conv2d(3, 4, (4, 2), padding="same"), (3, 8, 7)),
    "convolution, valid": (lambda: nn.Conv2d(3, 4, 2, padding="valid", bias=False), (3, 5, 5)),
    "convolution, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 6, 6)),
    "convolution, circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 5, 6)),
    "convolution, 1 dimension": (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 9)),
    "convolution, 3 dimensions": (lambda: nn.Conv3d(2, 3, 2), (2, 4, 4, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 3)),
    "group norm of vectors": (lambda: nn.GroupNorm(2, 6), (6,)),
    "layer norm": (lambda: nn.LayerNorm(6), (4, 6)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((4, 6)), (4, 6)),
    "layer norm, no bias": (lambda: nn.LayerNorm(6, bias=False), (6,)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_with_one_backward_per_record(
    name: str, dtype: torch.dtype, tolerance: float, channels_last: bool
) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(4)
    x = torch.randn(6, *shape).to(dtype) + 0.5
    if channels_last:
        if x.dim() != 4:
            pytest.skip("no such layout for these inputs")
        # torch 2.13's own GroupNorm crashes with this layout where its input needs no gradient.
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    compare(Alone(make()).to(dtype), rows(x), (x,), tolerance)


@pytest.mark.parametrize("width", [1, 1000])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("convolution")])
def test_convolutions_agree_by_rows_of_the_kernel_and_by_planes(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of channels, and a few records at a time."""
    monkeypatch.setattr(convolution, "_WIDTH", width)
    monkeypatch.setattr(convolution, "_AT_ONCE_BYTES", 2000)
    make, shape = LAYERS[name]
    x = torch.randn(6, *shape, dtype=torch.float64)
    compare(Alone(make()).double(), rows(x), (x,), 1e-10)


@pytest.mark.parametrize("name", ["convolution", "linear, two positions of a wide layer", "linear, many positions"])
def test_the_other_ways_of_measuring_agree_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and matrices too large for the first way: a call per record, Gram matrices, chunks."""
    monkeypatch.setattr(convolution, "_STRIPS_BYTES", 1)
    monkeypatch.setattr(entries, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(entries, "_MADE_BYTES", 100)
    make, shape = LAYERS[name]
    x = torch.randn(6, *shape, dtype=torch.float64)
    compare(Alone(make()).double(), rows(x), (x,), 1e-10)


MANY_PLACES = {
    "by planes": (nn.Conv2d(1, 16, 3, padding=1), (1, 28, 28)),
    "by rows": (nn.Conv2d(16, 32, 3, padding=1), (16, 14, 14)),
    "one by one": (nn.Conv1d(3, 8, 5), (3, 100)),
}


@pytest.mark.parametrize("count", [2, 3, 17, 33])
@pytest.mark.parametrize("name", MANY_PLACES)
def test_a_convolutions_gradient_is_the_same_number_whoever_else_is_there(name: str, count: int) -> None:
    layer, shape = MANY_PLACES[name]
    x = torch.randn(40, *shape)
    g = torch.randn_like(layer(x))
    for whole, some in zip(
        *(convolution.operation(layer, x)[0].entries(x[-n:], g[-n:]) for n in (40, count)), strict=True
    ):
        for i in range(count):
            parts = (some.select(torch.tensor([i])), whole.select(torch.tensor([40 - count + i])))
            assert torch.equal(*(part.added(torch.ones(1)) for part in parts))


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("count", [2, 17, 40])
def test_group_norm_goes_the_same_way_whoever_else_is_there(
    size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for name in ("_sums", "Table"):
        was = getattr(normalisation, name)
        monkeypatch.setattr(normalisation, name, lambda *given, name=name, was=was: taken.append(name) or was(*given))
    layer = nn.GroupNorm(2, 8)
    prepared = prepare(nn.Sequential(layer))
    prepared.model(torch.randn(count, 8, size, size)).sum().backward()
    assert set(taken) == {"_sums" if size == 8 else "Table"}


def test_two_position_gradients_that_cancel_are_measured_right() -> None:
    """A Gram matrix in single precision would lose the small difference of large terms."""
    layer = nn.Linear(3000, 2000, bias=False)
    a, g = torch.randn(1, 1, 3000), torch.randn(1, 1, 2000)
    entry = entries.Outer(layer.weight, torch.cat([a, a * (1 + 1e-2)], 1), torch.cat([g, -g], 1))
    made = (entry.outputs.double().mT @ entry.inputs.double()).square().sum((1, 2))
    torch.testing.assert_close(entry.squared_norms(), made, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}])
def test_embeddings_agree_also_where_tokens_repeat(options: dict[str, int]) -> None:
    ids = torch.tensor([[0, 1, 2, 3], [2, 2, 2, 2], [4, 0, 4, 0], [1, 1, 0, 3]])
    compare(Alone(nn.Embedding(6, 3, **options)).double(), rows(ids), (ids,), 1e-10)


RECURRENT = [
    {}, {"bias": False}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True},
]  # fmt: skip


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", RECURRENT)
@pytest.mark.parametrize("finals", [False, True])
def test_recurrent_layers_agree(kind: type, options: dict[str, Any], finals: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 7, 3)
    layer = kind(3, 5, batch_first=True, **options)
    compare(Alone(layer, finals).double(), rows(x.double()), (x.double(),), 1e-10)
    compare(Alone(layer, finals).float(), rows(x), (x,), 1e-5)
    compare(TimeFirst(kind(3, 5, **options), finals).double(), rows(x.double()), (x.double(),), 1e-10)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("options", RECURRENT)
@pytest.mark.parametrize("lengths", [[5, 2, 7, 2], [7, 5, 2, 1]])
def test_packed_sequences_agree(kind: type, options: dict[str, Any], lengths: list[int]) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    model = Alone(kind(3, 5, batch_first=True, **options)).double()

    def packed(rows: slice) -> tuple[PackedSequence]:
        decreasing = lengths == sorted(lengths, reverse=True)
        return (pack_padded_sequence(x[rows], torch.tensor(lengths[rows]), True, enforce_sorted=decreasing),)

    together = packed(slice(0, 4))
    expected, prepared = model.layer(*together), prepare(model).model.layer(*together)
    assert [torch.equal(a, b) for a, b in zip(expected[0][1:], prepared[0][1:], strict=True) if a is not None]
    torch.testing.assert_close(prepared[0].data, expected[0].data)
    torch.testing.assert_close(prepared[1], expected[1])
    compare(model, [packed(slice(i, i + 1)) for i in range(4)], together, 1e-10)


class Started(nn.Module):
    """The initial state is computed by another layer, so that gradients must pass through it."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.start, self.rnn = nn.Linear(3, 5), kind(3, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state = self.start(x[:, 0])[None]
        states, _ = self.rnn(x, (state, 0.5 * state) if isinstance(self.rnn, nn.LSTM) else state)
        return weighted(states)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_initial_states_pass_gradients_on(kind: type) -> None:
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    compare(Started(kind).double(), rows(x), (x,), 1e-10)


def test_dropout_masks_are_those_of_the_forward_pass() -> None:
    """With the seed of the forward pass, the plain gradient is the sum of the recorded ones."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    prepared, x = prepare(model), torch.randn(5, 6, dtype=torch.float64)
    for each in (model, prepared.model):
        torch.manual_seed(9)
        each(x).sum().backward()
    prepared.book.add_clipped(torch.ones(5, dtype=torch.float64))
    for p, q in zip(model.parameters(), prepared.model.parameters(), strict=True):
        torch.testing.assert_close(prepared.book.sums[q], p.grad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("name", ["linear", "convolution", "group norm", "linear, many positions"])
def test_a_record_that_overflows_is_left_out_and_spoils_no_other(name: str, bad: float) -> None:
    make, shape = LAYERS[name]
    x = torch.randn(4, *shape)
    x[2].flatten()[::2] = bad
    layer = Alone(make())
    sums = []
    for batch in (x, x[[0, 1, 3]]):
        prepared = prepare(layer)
        prepared.model(batch).sum().backward()
        factors = clip_factors(prepared.book.norms(), 0.5)
        assert (len(batch) == 4) == (factors == 0).any()
        prepared.book.add_clipped(factors)
        sums.append([prepared.book.sums[p] for p in prepared.model.parameters()])
    for with_bad, without in zip(*sums, strict=True):
        torch.testing.assert_close(with_bad, without, rtol=1e-5, atol=1e-6)


def test_the_overflow_test_would_notice_a_factor_of_zero_alone() -> None:
    prepared = prepare(nn.Linear(2, 1))
    prepared.model(torch.tensor([[1.0, 2.0], [float("nan"), 1.0]])).sum().backward()
    entry = prepared.book._entries[prepared.model.weight]
    assert entry.added(torch.tensor([1.0, 0.0])).isnan().any()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


class Outside(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) @ self.layer.weight


class Penalised(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer.bias.square().sum()


class PositionsAsRecords(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, 1))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Twice, "more than once"),
        (Outside, "outside its layer"),
        (Penalised, "outside its layer"),
        (PositionsAsRecords, r"a batch of 8, the model one of 4"),
    ],
)
def test_what_cannot_be_told_apart_by_record_is_refused(model: type[nn.Module], message: str) -> None:
    prepared = prepare(model())
    with pytest.raises(PrivacyError, match=message):
        prepared.model(torch.randn(4, 2, 3) if model is PositionsAsRecords else torch.randn(4, 3)).sum().backward()


def test_two_backward_passes_before_clipping_are_refused() -> None:
    prepared = prepare(nn.Linear(3, 1))
    prepared.model(torch.randn(2, 3)).sum().backward()
    with pytest.raises(PrivacyError, match="more than once"):
        prepared.model(torch.randn(2, 3)).sum().backward()


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def shared() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def patched() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x.mean(0) * layer.weight.sum()
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), "BatchNorm2d mixes patients"),
        (lambda: nn.BatchNorm1d(2, affine=False), "BatchNorm1d mixes patients"),
        (lambda: nn.SyncBatchNorm(2), "mixes patients"),
        (lambda: nn.InstanceNorm1d(2, track_running_stats=True), "mixes patients"),
        (tied, "shared parameters"),
        (shared, "shared parameters"),
        (Own, "no per-record gradients for Own"),
        (lambda: nn.Bilinear(2, 2, 2), "for Bilinear"),
        (lambda: nn.MultiheadAttention(4, 2), "for MultiheadAttention"),
        (lambda: nn.RNN(2, 2), "for RNN"),
        (lambda: nn.ConvTranspose2d(2, 2, 2), "for ConvTranspose2d"),
        (lambda: nn.PReLU(), "for PReLU"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "per-record gradients"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), "per-record gradients"),
        (patched, "for Linear"),
        (lambda: nn.Linear(2, 2).bfloat16(), "bfloat16"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "projections"),
        (lambda: nn.Embedding(3, 2, max_norm=1.0), "max_norm"),
        (lambda: nn.Embedding(3, 2, scale_grad_by_freq=True), "max_norm"),
        (lambda: nn.Embedding(3, 2, sparse=True), "max_norm"),
    ],
)
def test_models_without_known_per_record_gradients_are_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(PrivacyError, match=message) as caught:
        prepare(make())
    assert caught.value.fix


def test_frozen_layers_of_any_kind_are_left_alone() -> None:
    model = nn.Sequential(nn.Bilinear(3, 3, 3).requires_grad_(False), nn.Linear(3, 1))
    assert list(prepare(model).book.names.values()) == ["1.weight", "1.bias"]


def test_records_without_a_batch_dimension_are_refused() -> None:
    for layer, x in ((nn.Linear(3, 1), torch.randn(3)), (nn.Conv1d(3, 1, 1), torch.randn(3, 4)),
                     (nn.LSTM(3, 1), torch.randn(4, 3))):  # fmt: skip
        with pytest.raises(PrivacyError, match="without a batch dimension"):
            prepare(layer).model(x)
    with pytest.raises(PrivacyError, match="no tensor"):
        prepare(nn.Linear(3, 1)).model([1.0])


def test_autocast_and_copies_are_refused() -> None:
    prepared = prepare(nn.Linear(3, 1))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(PrivacyError, match="mixed precision"):
        prepared.model(torch.randn(2, 3))
    with pytest.raises(PrivacyError, match="cannot be copied"):
        copy.deepcopy(prepared.model)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_matrix_products_of_shortened_factors_are_refused(precision: str) -> None:
    prepared = prepare(nn.Linear(3, 1))
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(PrivacyError, match="multiply matrices in"):
            prepared.model(torch.randn(2, 3))
    finally:
        torch.set_float32_matmul_precision("highest")
    prepared.model(torch.randn(2, 3))


def test_without_gradients_the_stock_kernels_run() -> None:
    model = nn.LSTM(3, 4, batch_first=True)
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        assert torch.equal(prepare(model).model(x)[0], model(x)[0])


def test_the_physical_batch_shrinks_with_the_activations_and_not_with_a_dense_layer() -> None:
    small, large = (nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten()) for _ in range(2))
    one = torch.zeros(1, 1, 66, 66), torch.zeros(1, 1, 514, 514)
    first, second = (physical_batch(prepare(model), x) for model, x in zip((small, large), one, strict=True))
    assert first > 4 * second >= 4
    wide = nn.Sequential(nn.Linear(10, 3_000_000), nn.Linear(3_000_000, 1))
    assert physical_batch(prepare(wide), torch.zeros(1, 10)) > 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_on_the_gpu(name: str) -> None:
    make, shape = LAYERS[name]
    x = torch.randn(4, *shape, dtype=torch.float64, device="cuda")
    torch.set_default_device("cuda")
    try:
        compare(Alone(make()).double().cuda(), rows(x), (x,), 1e-10)
    finally:
        torch.set_default_device(None)
