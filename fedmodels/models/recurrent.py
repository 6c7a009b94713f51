"""Recurrent networks: series [batch, steps, features] or text [batch, tokens], with valid lengths -> logits.

There is exactly one stock `nn.LSTM` or `nn.GRU`, one layer deep and without dropout inside. torch gives each gate two
bias vectors, of which only the sum matters.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn

from fedmodels.data.features import feature_count
from fedmodels.errors import DataError
from fedmodels.models import initialise
from fedmodels.models.registry import Family, Preset, Sizes, register
from fedmodels.study_input import SeriesInput, TextInput
from fedmodels.typed import Positive

Pool = Literal["last", "mean", "max"]


class SeriesSizes(Sizes, frozen=True):
    """hidden: width of the state. dense: width of a tanh layer after it, 0 for none.

    pool: what represents a sequence, the state at its last valid step, or the mean or maximum over its valid states.
    """

    hidden: Positive = 32
    dense: Annotated[int, Meta(ge=0)] = 0
    dropout: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    pool: Pool = "last"


class TextSizes(SeriesSizes, frozen=True):
    """The sizes of a series model, and embedding: width of a token's vector. Mean pooling reaches every token."""

    pool: Pool = "mean"
    embedding: Positive = 32


class Recurrent(nn.Module):
    """Encoder, recurrent layer, pooling over the valid steps, optional tanh layer, logits."""

    def __init__(self, encoder: nn.Module, recurrent: nn.LSTM | nn.GRU, sizes: SeriesSizes, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.recurrent = recurrent
        self.pool: Pool = sizes.pool
        self.dropout = nn.Dropout(sizes.dropout)
        self.dense: nn.Module = nn.Identity()
        if sizes.dense:
            self.dense = nn.Sequential(initialise.xavier(nn.Linear(sizes.hidden, sizes.dense)), nn.Tanh())
        self.output = initialise.xavier(nn.Linear(sizes.dense or sizes.hidden, outputs))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """lengths: [batch] int64 valid steps, 1 to x.shape[1]; None means that all are valid."""
        states, _ = self.recurrent(self.encoder(x))
        logits: Tensor = self.output(self.dense(self.dropout(pooled(states, lengths, self.pool))))
        return logits


def pooled(states: Tensor, lengths: Tensor | None, pool: Pool) -> Tensor:
    """[batch, hidden] from states [batch, steps, hidden]; what lies after a sequence's length has no influence.

    A forward recurrence is causal, so the gathered state is the one that a packed sequence would end with.
    """
    steps = states.shape[1]
    if lengths is None:
        lengths = torch.full((len(states),), steps, device=states.device)
    if not torch.compiler.is_exporting() and bool(((lengths < 1) | (lengths > steps)).any()):
        raise DataError(
            f"a batch has sequences whose length is not between 1 and {steps}",
            fix="leave out records without any measurement or token",
        )
    if pool == "last":
        return states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
    valid = (torch.arange(steps, device=states.device) < lengths[:, None])[:, :, None]
    if pool == "mean":
        return states.masked_fill(~valid, 0.0).sum(1) / lengths[:, None]
    return states.masked_fill(~valid, -torch.inf).amax(1)


def _series(cell: type[nn.LSTM] | type[nn.GRU], sizes: SeriesSizes, input_: SeriesInput, outputs: int) -> nn.Module:
    layer = initialise.recurrent(cell(feature_count(input_), sizes.hidden, batch_first=True))
    return Recurrent(nn.Identity(), layer, sizes, outputs)


def _text(cell: type[nn.LSTM] | type[nn.GRU], sizes: TextSizes, input_: TextInput, outputs: int) -> nn.Module:
    # No padding_idx: the lengths keep padding out.
    encoder = nn.Embedding(input_.vocabulary, sizes.embedding)
    return Recurrent(
        encoder, initialise.recurrent(cell(sizes.embedding, sizes.hidden, batch_first=True)), sizes, outputs
    )


register(Family("lstm", SeriesInput, SeriesSizes, partial(_series, nn.LSTM), binary_outputs=2))
register(Family("gru", SeriesInput, SeriesSizes, partial(_series, nn.GRU), binary_outputs=2))
register(Family("text-lstm", TextInput, TextSizes, partial(_text, nn.LSTM), binary_outputs=2))
register(Family("text-gru", TextInput, TextSizes, partial(_text, nn.GRU), binary_outputs=2))

register(Preset("article-lstm", "lstm", SeriesSizes(hidden=128, dense=64)))
# The article does not give the width of the embedding; 128 is our choice.
register(Preset("article-text-lstm", "text-lstm", TextSizes(hidden=128, embedding=128, pool="last")))
register(Preset("article-text-gru", "text-gru", TextSizes(hidden=128, embedding=128, pool="last")))
