"""Losses and probabilities that follow from the number of logits: one is a sigmoid, several are a softmax."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def loss_fn(
    class_weights: Sequence[float] = (), reduction: Literal["mean", "sum"] = "mean", focal_gamma: float = 0.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function (logits [n, outputs], y [n] int64) -> scalar loss.

    Each record's loss is binary cross-entropy of the second label for one output and cross-entropy for several, times
    the public weight of its label (none: 1) and, with a focal_gamma above 0, times (1 - p)^gamma for the probability p
    of its true label (Lin et al., ICCV 2017, equation 4), so that records which the model knows already count less.

    "sum" adds them up, for a caller who divides by a public number; "mean" divides by n (an empty batch gives 0).
    Unlike `torch.nn.CrossEntropyLoss`, "mean" never divides by the weights of the batch: that would tie each record's
    gradient to the labels of the others.
    """
    weights = torch.tensor(tuple(class_weights), dtype=torch.float32)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        records = _record_losses(logits, y)
        if focal_gamma:
            records = records * (-torch.expm1(-records)).clamp(min=1e-6) ** focal_gamma
        if class_weights:
            records = records * weights.to(logits)[y]
        return records.sum() if reduction == "sum" else records.sum() / max(1, len(records))

    return loss


def _record_losses(logits: Tensor, y: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, y, reduction="none")


def probabilities(logits: Tensor) -> Tensor:
    """[n, labels] probabilities from logits [n, outputs]; one output gives two columns, the second is the positive."""
    if logits.shape[1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)
    return logits.softmax(dim=1)


class AtTemperature(nn.Module):
    """A model whose logits are divided by a temperature above 0: `probabilities` of them are the calibrated ones."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(x, lengths) / self.temperature
        return logits


def log_odds(logits: Tensor) -> Tensor:
    """[n, labels] log(p / (1 - p)) of the probabilities p of logits [n, outputs], without rounding p."""
    if logits.shape[1] == 1:
        return torch.cat([-logits, logits], dim=1)
    labels = logits.shape[1]
    itself = torch.eye(labels, dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].expand(-1, labels, -1).masked_fill(itself, -torch.inf)
    return logits - others.logsumexp(dim=2)
