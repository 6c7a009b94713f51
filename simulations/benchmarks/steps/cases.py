"""The models that steps are timed on: the articles', the default image model, and a GRU beside the article's LSTM."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedmodels.data.features import feature_count
from fedmodels.models.cnn import CnnSizes
from fedmodels.models.device import device, image_format
from fedmodels.models.recurrent import SeriesSizes
from fedmodels.models.registry import Architecture, construct, presets
from fedmodels.study_input import ImageInput, Input, SeriesInput, TextInput, Variable

_LABELS = 2
_VARIABLES = tuple(Variable(name=f"v{i}", low=0.0, high=1.0) for i in range(14))
_SERIES = SeriesInput(steps=48, variables=_VARIABLES[:12], statics=_VARIABLES[12:])  # 40 features
_TEXT = TextInput(vocabulary=8192, max_tokens=200)


@dataclass(frozen=True)
class Case:
    """A model and its batch. chunks: physical batches of `batch` records in one step. small: also in a quick run."""

    name: str
    architecture: Architecture
    input: Input
    batch: int
    chunks: int = 1
    small: bool = False

    def model(self) -> nn.Module:
        """With the same weights every time, in training mode, as a hospital lays it out on `device()`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = construct(self.architecture, self.input, _LABELS).train()
        where = device()
        return model.to(where, memory_format=image_format(where))  # type: ignore[call-overload, no-any-return]

    def data(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """(x, lengths, y) of random records, the same on every `device()`."""
        where, generator = device(), torch.Generator().manual_seed(1)
        y = torch.randint(0, _LABELS, (self.batch,), generator=generator).to(where)
        if isinstance(self.input, ImageInput):
            shape = (self.batch, self.input.channels, self.input.height, self.input.width)
            x = torch.randn(shape, generator=generator).contiguous(memory_format=image_format(where))
            return x.to(where), None, y
        if isinstance(self.input, TextInput):
            steps = self.input.max_tokens
            x = torch.randint(0, self.input.vocabulary, (self.batch, steps), generator=generator)
        else:
            steps = _SERIES.steps
            x = torch.randn(self.batch, steps, feature_count(_SERIES), generator=generator)
        return x.to(where), torch.full((self.batch,), steps, device=where), y


def _image(size: int, channels: Literal[1, 3] = 1) -> ImageInput:
    return ImageInput(height=size, width=size, channels=channels)


def _preset(name: str) -> Architecture:
    return Architecture(presets()[name].family, presets()[name].sizes)


CNN, CNN_LOGICAL, CNN_64, CNN_28 = "article CNN 224", "article CNN 224, 4 chunks", "CNN 64", "CNN 28"
LSTM, GRU, TEXT_LSTM, TEXT_GRU = "article LSTM 48", "GRU 48", "article text LSTM 200", "article text GRU 200"


def cases() -> tuple[Case, ...]:
    return (
        Case(CNN_28, Architecture("cnn", CnnSizes()), _image(28), 64, small=True),
        Case(CNN_64, Architecture("cnn", CnnSizes()), _image(64), 64),
        Case(LSTM, _preset("article-lstm"), _SERIES, 64, small=True),
        Case(GRU, Architecture("gru", SeriesSizes(hidden=128, dense=64)), _SERIES, 64, small=True),
        Case(TEXT_LSTM, _preset("article-text-lstm"), _TEXT, 64),
        Case(TEXT_GRU, _preset("article-text-gru"), _TEXT, 64),
        Case(CNN, _preset("article-cnn"), _image(224, 3), 32),
        Case(CNN_LOGICAL, _preset("article-cnn"), _image(224, 3), 32, chunks=4),
    )
