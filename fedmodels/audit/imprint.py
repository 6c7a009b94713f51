"""The imprint attack (Fowl et al., ICLR 2022, "Robbing the Fed"): weights under which a sum of gradients comes apart.

A coordinator sends a model whose dense layer measures one number of each record, the same in every neuron, and whose
biases are thresholds on that number. A neuron is active for the records above its threshold, so that the gradients of
two neighbouring neurons differ by the records between their thresholds: if that is one record, by exactly its input to
the layer, times a factor that the biases' gradients tell. Neither a larger batch nor a sum over hospitals prevents it.

Only weights are malicious here. A hospital runs the architecture of the study that it approved, from the package that
it installed; the published attack also puts a layer of its own in front.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmodels.errors import UsageError


@dataclass(frozen=True, eq=False)
class Imprint:
    """direction: [d] the number measured of an input x is direction @ x; thresholds: [k] ascending, one per neuron."""

    direction: Tensor
    thresholds: Tensor


def plan_imprint(public: Tensor, neurons: int) -> Imprint:
    """Measure the mean of an input, with thresholds at its quantiles over public inputs [n, d] of the same kind.

    `UsageError` where all public inputs have the same mean: no threshold would separate anything.
    """
    direction = torch.full((public.shape[1],), 1.0 / public.shape[1])
    measured = public @ direction
    thresholds = torch.quantile(measured, torch.arange(neurons, dtype=measured.dtype) / neurons)
    if not float(thresholds[-1]) > float(thresholds[0]):
        raise UsageError("the inputs of the layer cannot be told apart by their mean")
    return Imprint(direction, thresholds)


@torch.no_grad()
def plant(imprint: Imprint, layer: nn.Linear, following: nn.Linear) -> None:
    """Overwrite the layer, whose outputs go through a ReLU, and the dense layer after it, which makes the logits.

    All neurons get the same weight in a logit, or their gradients could not be subtracted; small, so that no loss
    saturates; and different from logit to logit, since the gradients of all logits of a softmax add up to 0.
    """
    if (layer.out_features, layer.in_features) != (len(imprint.thresholds), len(imprint.direction)):
        raise UsageError("the imprint was planned for a layer of another size")
    if layer.bias is None or following.bias is None:
        raise UsageError("an imprint needs layers with a bias")
    layer.weight.copy_(imprint.direction.expand_as(layer.weight))
    layer.bias.copy_(-imprint.thresholds)
    spread = float(imprint.thresholds[-1] - imprint.thresholds[0])
    small = 1.0 / (len(imprint.thresholds) * spread)
    scale = small * 0.5 ** torch.arange(following.out_features, dtype=following.weight.dtype)
    following.weight.copy_(scale[:, None].expand_as(following.weight))
    following.bias.zero_()


def take_apart(weight: Tensor, bias: Tensor, records: int) -> Tensor:
    """[m, d] the inputs that a sum of gradients of a planted layer shows, m <= records, clearest first.

    weight: [k, d] and bias: [k] gradient of the layer, of any scale; records: how many are in the sum, as the attacker
    knows or guesses. Two records between the same thresholds give a mixture of both.
    """
    weights = torch.cat([weight, weight.new_zeros(1, weight.shape[1])]).double().diff(dim=0)
    factors = torch.cat([bias, bias.new_zeros(1)]).double().diff()
    clearest = factors.abs().argsort(descending=True)[:records]
    clearest = clearest[factors[clearest] != 0.0]
    return (weights[clearest] / factors[clearest, None]).to(weight.dtype)
