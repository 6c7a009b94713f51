"""From the records of a data set to the tensors that a model takes, and to its predictions."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedmodels.data.dataset import Dataset
from fedmodels.models.device import device_of
from fedmodels.models.losses import probabilities
from fedmodels.study_input import ImageInput, Input

_PREDICT_BATCH = 256


def to_tensors(data: Dataset, input_: Input) -> tuple[Tensor, Tensor | None]:
    """(x, lengths), on the CPU: images scaled from the public range to [-1, 1], text as int64, the rest as it is."""
    x = torch.from_numpy(np.ascontiguousarray(data.x))
    if isinstance(input_, ImageInput):
        x = ((x.float() - input_.low) * (2.0 / (input_.high - input_.low)) - 1.0).clamp(-1.0, 1.0)
    elif not x.is_floating_point():
        x = x.long()
    return x, None if data.lengths is None else torch.from_numpy(data.lengths)


@torch.no_grad()
def predict(model: nn.Module, data: Dataset, input_: Input) -> npt.NDArray[np.float64]:
    """[n, labels] probability of every label for each record, with the model in evaluation mode, where it is."""
    model.eval()
    parts, where = [], device_of(model)
    for begin in range(0, len(data), _PREDICT_BATCH):
        batch = data.take(np.arange(begin, min(begin + _PREDICT_BATCH, len(data))))
        x, lengths = to_tensors(batch, input_)
        logits = model(x.to(where), None if lengths is None else lengths.to(where))
        parts.append(probabilities(logits).double().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0))
