"""Multi-layer perceptrons for tables: [batch, features] -> logits; without hidden layers, logistic regression."""

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor, nn

from fedmodels.data.features import feature_count
from fedmodels.models.initialise import he, xavier
from fedmodels.models.registry import Family, Sizes, register
from fedmodels.study_input import TableInput
from fedmodels.typed import Positive


class MlpSizes(Sizes, frozen=True):
    """hidden: widths of the ReLU layers, () for a linear model; dropout follows each of them. norm: "layer" normalises
    the features of a record before each ReLU (Ba et al. 2016)."""

    hidden: tuple[Positive, ...] = (32,)
    norm: Literal["none", "layer"] = "none"
    dropout: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0


class Mlp(nn.Module):
    """Dense layers with ReLU and dropout; logits."""

    def __init__(self, sizes: MlpSizes, input_: TableInput, outputs: int) -> None:
        super().__init__()
        widths = (feature_count(input_), *sizes.hidden)
        hidden = [
            nn.Sequential(
                he(nn.Linear(before, after)),
                *([nn.LayerNorm(after)] if sizes.norm == "layer" else []),
                nn.ReLU(),
                nn.Dropout(sizes.dropout),
            )
            for before, after in pairwise(widths)
        ]
        self.hidden = nn.Sequential(*hidden)
        self.output = xavier(nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all families are called alike
        logits: Tensor = self.output(self.hidden(x))
        return logits


register(Family("mlp", TableInput, MlpSizes, Mlp, binary_outputs=1))
