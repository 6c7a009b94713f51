"""LSTM and GRU over whole sequences outside autograd's graph: forward, and back to the gates' pre-activations.

Time comes first: x is [t, n, k]. Gates are in torch's order (LSTM: input, forget, cell, output; GRU: reset, update,
new), all of them computed as sigmoids: tanh(x) = 2 sigmoid(2x) - 1, because torch's tanh is several times slower.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights(NamedTuple):
    """weight_ih [g, k], weight_hh [g, h], bias_ih and bias_hh [g] or None, with g = 4h (LSTM) or 3h (GRU)."""

    input: Tensor
    hidden: Tensor
    input_bias: Tensor | None
    hidden_bias: Tensor | None


class LstmTrace(NamedTuple):
    """gates: [t, n, 4h] sigmoids, that of the cell gate s standing for tanh = 2s - 1. states, cells: [t + 1, n, h], the
    initial ones first. squashed: [t, n, h] tanh of the cells after each step.
    """

    gates: Tensor
    states: Tensor
    cells: Tensor
    squashed: Tensor


def lstm(x: Tensor, state: Tensor, cell: Tensor, weights: Weights) -> LstmTrace:
    """Hochreiter and Schmidhuber 1997 with forget gates, as `nn.LSTM` computes it; state, cell: [n, h] initial."""
    steps, size = len(x), state.shape[1]
    doubled = x.new_ones(4 * size)
    doubled[2 * size : 3 * size] = 2.0
    bias = None
    if weights.input_bias is not None and weights.hidden_bias is not None:
        bias = (weights.input_bias + weights.hidden_bias) * doubled
    gates = F.linear(x, weights.input * doubled[:, None], bias)
    hidden = (weights.hidden * doubled[:, None]).t().contiguous()
    states, cells = (torch.cat([v[None], v.new_empty(steps, *v.shape)]) for v in (state, cell))
    squashed = torch.empty_like(cells[1:])
    into, forget, new, out = (gates[:, :, k * size : (k + 1) * size].unbind(0) for k in range(4))
    rows, h, c, s = gates.unbind(0), states.unbind(0), cells.unbind(0), squashed.unbind(0)
    for t in range(steps):
        rows[t].addmm_(h[t], hidden).sigmoid_()
        torch.mul(forget[t], c[t], out=c[t + 1])
        c[t + 1].addcmul_(into[t], new[t], value=2.0).sub_(into[t])
        torch.mul(c[t + 1], 2.0, out=s[t])
        s[t].sigmoid_().mul_(2.0).sub_(1.0)
        torch.mul(out[t], s[t], out=h[t + 1])
    return LstmTrace(gates, states, cells, squashed)


def lstm_back(
    trace: LstmTrace, hidden: Tensor, g_states: Tensor | None, g_cells: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (gates before activation [t, n, 4h], initial state, initial cell [n, h]).

    hidden: weight_hh; g_states, g_cells: [t, n, h] gradients of the states and cells after each step, None for 0.
    """
    gates, states, cells, squashed = trace
    steps, count, size = squashed.shape
    into, forget, new, out = gates.view(steps, count, 4, size).unbind(2)
    slopes = torch.addcmul(gates, gates, gates, value=-1.0)  # times what each gate is multiplied with: its gradient
    per_gate = slopes.view(steps, count, 4, size)
    per_gate[:, :, 0].mul_(new * 2.0 - 1.0)
    per_gate[:, :, 1].mul_(cells[:-1])
    per_gate[:, :, 2].mul_(into).mul_(4.0)
    per_gate[:, :, 3].mul_(squashed)
    through = torch.addcmul(out, out * squashed, squashed, value=-1.0).unbind(0)
    rows, of_cell, of_out = slopes.unbind(0), per_gate[:, :, :3].unbind(0), per_gate[:, :, 3].unbind(0)
    kept = forget.unbind(0)
    into_states = None if g_states is None else g_states.contiguous().unbind(0)
    into_cells = None if g_cells is None else g_cells.unbind(0)
    g_cell = torch.zeros_like(states[0])
    g_state = torch.zeros_like(states[0]) if into_states is None else into_states[-1].clone()
    for t in range(steps - 1, -1, -1):
        if into_cells is not None:
            g_cell += into_cells[t]
        g_cell.addcmul_(g_state, through[t])
        of_out[t].mul_(g_state)
        of_cell[t].mul_(g_cell[:, None])
        g_cell.mul_(kept[t])
        g_state = rows[t] @ hidden
        if t and into_states is not None:
            g_state += into_states[t - 1]
    return slopes, g_state, g_cell


class GruTrace(NamedTuple):
    """gates: [t, n, 3h] reset, update and new after activation. states: [t + 1, n, h], the initial one first.
    recurrent: [t, n, h] what the reset gate multiplies.
    """

    gates: Tensor
    states: Tensor
    recurrent: Tensor


def gru(x: Tensor, state: Tensor, weights: Weights) -> GruTrace:
    """Cho et al. 2014 with the reset gate after the product, as `nn.GRU` computes it; state: [n, h] initial."""
    steps, size = len(x), state.shape[1]
    bias, new_bias = weights.input_bias, None
    if bias is not None and weights.hidden_bias is not None:
        bias = bias.clone()
        bias[: 2 * size] += weights.hidden_bias[: 2 * size]
        new_bias = weights.hidden_bias[2 * size :]
    gates = F.linear(x, weights.input, bias)
    hidden = weights.hidden.t().contiguous()
    states = torch.cat([state[None], state.new_empty(steps, *state.shape)])
    recurrent = torch.empty_like(states[1:])
    both, reset, update, new = (gates[:, :, i * size : j * size].unbind(0) for i, j in ((0, 2), (0, 1), (1, 2), (2, 3)))
    h, r = states.unbind(0), recurrent.unbind(0)
    for t in range(steps):
        product = h[t] @ hidden
        both[t].add_(product[:, : 2 * size]).sigmoid_()
        if new_bias is None:
            r[t].copy_(product[:, 2 * size :])
        else:
            torch.add(product[:, 2 * size :], new_bias, out=r[t])
        new[t].addcmul_(reset[t], r[t]).mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
        torch.lerp(new[t], h[t], update[t], out=h[t + 1])
    return GruTrace(gates, states, recurrent)


def gru_back(trace: GruTrace, hidden: Tensor, g_states: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (input-side gates [t, n, 3h], recurrent-side gates [t, n, 3h], initial state [n, h]).

    hidden: weight_hh; g_states: [t, n, h] gradients of the states after each step, None for 0. The two sides differ in
    the new gate, whose recurrent side is scaled by the reset gate.
    """
    gates, states, recurrent = trace
    steps, count, size = recurrent.shape
    reset, update, new = gates.view(steps, count, 3, size).unbind(2)
    outer = torch.empty(steps, count, 3, size, dtype=gates.dtype, device=gates.device)
    inner = torch.empty_like(outer)
    slope = torch.addcmul(new.new_ones(()), new, new, value=-1.0, out=outer[:, :, 2])
    slope.addcmul_(slope, update, value=-1.0)
    both = gates[:, :, : 2 * size]
    slopes = torch.addcmul(both, both, both, value=-1.0).view(steps, count, 2, size)
    torch.mul(slopes[:, :, 0], recurrent, out=inner[:, :, 0]).mul_(slope)
    torch.mul(slopes[:, :, 1], states[:-1] - new, out=inner[:, :, 1])
    torch.mul(slope, reset, out=inner[:, :, 2])
    rows, of_inner, of_new = inner.view(steps, count, 3 * size).unbind(0), inner.unbind(0), outer[:, :, 2].unbind(0)
    kept = update.unbind(0)
    into = None if g_states is None else g_states.contiguous().unbind(0)
    g_state = torch.zeros_like(states[0]) if into is None else into[-1]
    for t in range(steps - 1, -1, -1):
        of_inner[t].mul_(g_state[:, None])
        of_new[t].mul_(g_state)
        carried = g_state * kept[t]
        if t and into is not None:
            carried += into[t - 1]
        g_state = carried.addmm_(rows[t], hidden)
    outer[:, :, :2] = inner[:, :, :2]
    return outer.view(steps, count, 3 * size), inner.view(steps, count, 3 * size), g_state
