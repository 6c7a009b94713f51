"""LSTM and GRU layers of any depth and direction, also on packed sequences, with the stock layers' parameters.

One pass over time per layer and direction is one operation; per-record gradients are made once at the end of it, not at
every time step. Everything between the operations (order of time, dropout, picking final states) is ordinary autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from fedmodels.dp.clipping import cells
from fedmodels.dp.clipping.book import Gradients, Recorder, Tensors
from fedmodels.dp.clipping.entries import Entry, matrix_entry, vector_entry
from fedmodels.errors import PrivacyError

Layer = nn.LSTM | nn.GRU


@dataclass(frozen=True, eq=False)
class Scan:
    """One direction of one layer: weight_ih [g, k], weight_hh [g, h], bias_ih and bias_hh [g] or None."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def _weights(self) -> cells.Weights:
        return cells.Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def _entries(self, x: Tensor, states: Tensor, outer: Tensor, inner: Tensor) -> list[Entry]:
        """x [t, n, k]; states before each step [t, n, h]; outer, inner: gate gradients on the side of x and h."""
        entries: list[Entry] = []
        for weight, bias, left, g in (
            (self.weight_ih, self.bias_ih, x, outer),
            (self.weight_hh, self.bias_hh, states, inner),
        ):
            if weight.requires_grad:
                entries.append(matrix_entry(weight, left.transpose(0, 1), g.transpose(0, 1)))
            if bias is not None and bias.requires_grad:
                entries.append(vector_entry(bias, g.transpose(0, 1)))
        return entries


class LstmScan(Scan):
    """(x [n, t, k], state [n, h], cell [n, h]) -> (states [n, t, h], cells [n, t, h]) after each step."""

    def forward(self, x: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensors, Tensors]:
        x = x.transpose(0, 1).contiguous()
        trace = cells.lstm(x, state, cell, self._weights())
        outputs = (trace.states[1:].transpose(0, 1), trace.cells[1:].transpose(0, 1))
        return outputs, (x, *trace, self.weight_ih, self.weight_hh)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, *traced, weight_ih, weight_hh = saved
        trace = cells.LstmTrace(*traced)
        g_states, g_cells = (None if g is None else g.transpose(0, 1) for g in gradients)
        if g_states is None and g_cells is None:
            return (None, None, None), []
        gates, g_state, g_cell = cells.lstm_back(trace, weight_hh, g_states, g_cells)
        dx = (gates @ weight_ih).transpose(0, 1) if wanted[0] else None
        return (dx, g_state, g_cell), self._entries(x, trace.states[:-1], gates, gates)


class GruScan(Scan):
    """(x [n, t, k], state [n, h]) -> (states [n, t, h],) after each step."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensors, Tensors]:
        x = x.transpose(0, 1).contiguous()
        trace = cells.gru(x, state, self._weights())
        return (trace.states[1:].transpose(0, 1),), (x, *trace, self.weight_ih, self.weight_hh)

    def backward(self, saved: Tensors, gradients: Gradients, wanted: Sequence[bool]) -> tuple[Gradients, list[Entry]]:
        x, *traced, weight_ih, weight_hh = saved
        trace = cells.GruTrace(*traced)
        (g,) = gradients
        if g is None:
            return (None, None), []
        outer, inner, g_state = cells.gru_back(trace, weight_hh, g.transpose(0, 1))
        dx = (outer @ weight_ih).transpose(0, 1) if wanted[0] else None
        return (dx, g_state), self._entries(x, trace.states[:-1], outer, inner)


State = Tensor | tuple[Tensor, Tensor]


def forward(
    layer: Layer, book: Recorder, x: Tensor | PackedSequence, initial: State | None = None
) -> tuple[Tensor | PackedSequence, State]:
    """What `layer(x, initial)` returns, its gradients recorded."""
    lengths = None
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        lengths = lengths.to(padded.device)
    elif x.dim() != 3:
        raise PrivacyError("a recurrent layer got a record without a batch dimension", fix="give the model batches")
    else:
        padded = x if layer.batch_first else x.transpose(0, 1)
    states, finals = _layers(layer, book, padded, lengths, _initial(layer, padded, initial))
    final = (finals[0], finals[1]) if isinstance(layer, nn.LSTM) else finals[0]
    if isinstance(x, PackedSequence):
        return _packed_like(x, states), final
    return states if layer.batch_first else states.transpose(0, 1), final


def _initial(layer: Layer, x: Tensor, given: State | None) -> Tensors:
    """Initial state (LSTM: and cell), each [layers * directions, n, h]."""
    if given is None:
        zeros = x.new_zeros(layer.num_layers * (1 + layer.bidirectional), len(x), layer.hidden_size)
        return (zeros, zeros) if isinstance(layer, nn.LSTM) else (zeros,)
    return (given,) if isinstance(given, Tensor) else given


def _layers(
    layer: Layer, book: Recorder, x: Tensor, lengths: Tensor | None, initial: Tensors
) -> tuple[Tensor, list[Tensor]]:
    """(states of the last layer [n, t, h * directions], final state (and cell) of every layer and direction)."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    finals: list[Tensors] = []
    for depth in range(layer.num_layers):
        outputs = []
        for suffix in directions:
            start = (v[len(finals)] for v in initial)
            inputs = _reversed(x, lengths) if suffix else x
            trace = book.apply(_scan(layer, f"_l{depth}{suffix}"), inputs, *start)
            finals.append(tuple(_last(v, lengths) for v in trace))
            outputs.append(_reversed(trace[0], lengths) if suffix else trace[0])
        x = torch.cat(outputs, 2) if layer.bidirectional else outputs[0]
        if depth < layer.num_layers - 1:
            x = F.dropout(x, layer.dropout, layer.training)
    return x, [torch.stack(values) for values in zip(*finals, strict=True)]


def _scan(layer: Layer, suffix: str) -> LstmScan | GruScan:
    parameters = (getattr(layer, f"{name}{suffix}") for name in ("weight_ih", "weight_hh"))
    biases = (getattr(layer, f"{name}{suffix}") if layer.bias else None for name in ("bias_ih", "bias_hh"))
    return (LstmScan if isinstance(layer, nn.LSTM) else GruScan)(*parameters, *biases)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [n, t, ...] in opposite order of time; of padded sequences only the valid steps."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    order = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return x[torch.arange(len(x), device=x.device)[:, None], order]


def _last(x: Tensor, lengths: Tensor | None) -> Tensor:
    return x[:, -1] if lengths is None else x[torch.arange(len(x), device=x.device), lengths - 1]


def _packed_like(x: PackedSequence, states: Tensor) -> PackedSequence:
    ordered = states if x.sorted_indices is None else states[x.sorted_indices]
    lengths = (x.batch_sizes[:, None] > torch.arange(len(states))).sum(0)
    packed = pack_padded_sequence(ordered, lengths, batch_first=True)
    return PackedSequence(packed.data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)


def check(layer: Layer) -> None:
    """`PrivacyError` for what is not supported."""
    if layer.proj_size:
        raise PrivacyError("LSTM projections cannot be clipped per record", fix="leave `proj_size` at 0")
