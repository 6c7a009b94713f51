"""Initial weights, drawn from torch's global generator; each function fills its layer and returns it."""

from typing import TypeVar

import torch
from torch import nn

L = TypeVar("L", nn.Linear, nn.Conv2d)


def he(layer: L) -> L:
    """He et al. (ICCV 2015) uniform weights for a layer before a ReLU; zero bias."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return _zero_bias(layer)


def xavier(layer: L) -> L:
    """Glorot & Bengio (AISTATS 2010) uniform weights for a layer before a tanh, sigmoid or softmax; zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    return _zero_bias(layer)


def recurrent(layer: nn.LSTM | nn.GRU) -> nn.LSTM | nn.GRU:
    """Xavier input weights and orthogonal recurrent weights (Saxe et al., ICLR 2014), gate by gate.

    An LSTM's forget gate starts at bias 1 (Gers et al., 2000; Jozefowicz et al., ICML 2015), set once, in `bias_ih`;
    every other bias is 0.
    """
    size = layer.hidden_size
    for name, parameter in layer.named_parameters():
        for gate in torch.split(parameter.detach(), size):
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(gate)
        if name.startswith("bias_ih") and isinstance(layer, nn.LSTM):
            with torch.no_grad():
                parameter[size : 2 * size] = 1.0  # torch's order of gates is input, forget, cell, output
    return layer


def _zero_bias(layer: L) -> L:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
