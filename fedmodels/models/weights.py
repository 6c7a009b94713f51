"""A model's weights as one vector, in ascending order of parameter names.

By name, because position is not stable: Opacus's own recurrent layers, for one, list them in another order.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedmodels.errors import RunError


def flatten(model: nn.Module) -> npt.NDArray[np.float32]:
    """The parameters as a new vector [parameter count] of float32."""
    parts = [p.detach().cpu().to(torch.float32).reshape(-1) for _, p in sorted(model.named_parameters())]
    vector: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return vector


def unflatten(model: nn.Module, vector: npt.NDArray[np.floating]) -> None:
    """Set the parameters to the values of a vector made by `flatten`; `RunError` for another length or NaN, infinity.

    A vector that is refused changes nothing.
    """
    named = sorted(model.named_parameters())
    expected = sum(p.numel() for _, p in named)
    if vector.shape != (expected,):
        raise RunError(
            f"weights of shape {vector.shape} do not fit a model of {expected} parameters",
            fix="all parties must run the same study with the same version of fedmodels",
        )
    with np.errstate(over="ignore"):
        single = np.array(vector, dtype=np.float32)
    if not np.isfinite(single).all():
        raise RunError("the weights are not all finite numbers", fix="lower `training.learning_rate`")
    parts = torch.split(torch.from_numpy(single), [p.numel() for _, p in named])
    with torch.no_grad():
        for (_, parameter), part in zip(named, parts, strict=True):
            parameter.copy_(part.view_as(parameter))
