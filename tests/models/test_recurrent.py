"""Recurrent models: what the lengths mean, and how the weights start."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_studies import INPUTS, a_study
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fedmodels.errors import DataError
from fedmodels.models import initialise
from fedmodels.models.recurrent import Recurrent, SeriesSizes, pooled
from fedmodels.models.registry import build_model

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def a_model(cell: type[nn.LSTM] | type[nn.GRU], sizes: SeriesSizes) -> Recurrent:
    layer = initialise.recurrent(cell(3, sizes.hidden, batch_first=True))
    return Recurrent(nn.Identity(), layer, sizes, 2).double().eval()


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.sampled_from([nn.LSTM, nn.GRU]))
def test_the_last_valid_state_is_the_final_state_of_a_packed_sequence(lengths: list[int], cell: type) -> None:
    model = a_model(cell, SeriesSizes(hidden=4))
    x, sizes = torch.randn(len(lengths), 6, 3, dtype=torch.float64), torch.tensor(lengths)
    _, final = model.recurrent(pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False))
    hidden = final[0][0] if cell is nn.LSTM else final[0]
    torch.testing.assert_close(model(x, sizes), model.output(hidden), rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.sampled_from(["last", "mean", "max"]), st.sampled_from([nn.LSTM, nn.GRU]))
def test_padding_has_no_influence(lengths: list[int], pool: str, cell: type) -> None:
    model = a_model(cell, SeriesSizes(hidden=4, dense=3, pool=pool))
    x, sizes = torch.randn(len(lengths), 6, 3, dtype=torch.float64), torch.tensor(lengths)
    padding = torch.arange(6)[None, :] >= sizes[:, None]
    other = torch.where(padding[:, :, None], torch.randn_like(x) * 100, x)
    assert torch.equal(model(x, sizes), model(other, sizes))
    alone = torch.cat([model(x[i : i + 1, :n]) for i, n in enumerate(lengths)])
    torch.testing.assert_close(model(x, sizes), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("pool", "expected"), [("last", [3.0, 8.0]), ("mean", [2.0, 7.0]), ("max", [3.0, 8.0])])
def test_pooling_takes_the_valid_steps_only(pool: str, expected: list[float]) -> None:
    states = torch.tensor([[[1.0], [3.0], [99.0]], [[8.0], [5.0], [8.0]]])
    lengths = torch.tensor([2, 3])
    torch.testing.assert_close(pooled(states, lengths, pool)[:, 0], torch.tensor(expected))


@pytest.mark.parametrize("pool", ["last", "mean", "max"])
@pytest.mark.parametrize("length", [0, -1, 4])
def test_an_impossible_length_is_refused(pool: str, length: int) -> None:
    with pytest.raises(DataError, match="not between 1 and 3"):
        pooled(torch.zeros(2, 3, 1), torch.tensor([1, length]), pool)


@pytest.mark.parametrize("name", ["lstm", "gru", "text-lstm", "text-gru"])
def test_every_family_starts_with_these_gates(name: str) -> None:
    layer = build_model(a_study(name, INPUTS[name])).recurrent
    size = layer.hidden_size
    torch.testing.assert_close(layer.weight_hh_l0[:size] @ layer.weight_hh_l0[:size].T, torch.eye(size))
    assert not layer.bias_ih_l0[:size].any()


def test_gates_start_orthogonal_with_the_forget_bias_at_one() -> None:
    layer = initialise.recurrent(nn.LSTM(3, 4))
    for gate in layer.weight_hh_l0.split(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4))
    assert layer.bias_ih_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert layer.bias_hh_l0.tolist() == [0.0] * 16
    limit = (6 / (3 + 4)) ** 0.5  # Glorot & Bengio, equation 16, per gate
    assert 0.5 * limit < float(layer.weight_ih_l0.detach().abs().max()) <= limit
    assert initialise.recurrent(nn.GRU(3, 4)).bias_ih_l0.tolist() == [0.0] * 12
