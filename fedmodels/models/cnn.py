"""Convolutional networks for images: [batch, channels, height, width] in [-1, 1] -> logits."""

import math
from typing import Annotated, Literal

from msgspec import Meta
from torch import Tensor, nn

from fedmodels.errors import FileError
from fedmodels.models.initialise import he, xavier
from fedmodels.models.registry import Family, Preset, Sizes, register
from fedmodels.study_input import ImageInput
from fedmodels.typed import Positive


class CnnSizes(Sizes, frozen=True):
    """channels: filters of each 3x3 convolution, each followed by a 2x2 max-pool. dense: width of the hidden layer.

    norm: "group" normalises within a record (Wu & He, ECCV 2018), which keeps private training stable (De et al., 2022,
    section 3); it never mixes records as BatchNorm would.
    """

    channels: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (16, 32, 32)
    norm: Literal["none", "group"] = "group"
    dense: Positive = 64
    dropout: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0


class Cnn(nn.Module):
    """Blocks of convolution ("same" padding), norm, ReLU and 2x2 max-pool; a hidden layer; logits."""

    def __init__(self, sizes: CnnSizes, input_: ImageInput, outputs: int) -> None:
        super().__init__()
        pools = len(sizes.channels)
        height, width = input_.height >> pools, input_.width >> pools
        if min(height, width) < 1:
            raise FileError(
                f"`model.sizes.channels`: {input_.height} x {input_.width} pixels are too few for {pools} halvings",
                where="study.toml",
                fix=f"use at most {int(math.log2(min(input_.height, input_.width)))} convolutions, or larger images",
            )
        blocks = [
            _block(before, after, sizes.norm)
            for before, after in zip((input_.channels, *sizes.channels), sizes.channels, strict=False)
        ]
        self.features = nn.Sequential(*blocks)
        self.dense = he(nn.Linear(sizes.channels[-1] * height * width, sizes.dense))
        self.dropout = nn.Dropout(sizes.dropout)
        self.output = xavier(nn.Linear(sizes.dense, outputs))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:  # noqa: ARG002 - all families are called alike
        hidden: Tensor = self.dense(self.features(x).flatten(1)).relu()
        logits: Tensor = self.output(self.dropout(hidden))
        return logits


class Block(nn.Sequential):
    """Layers of which nothing but the output is ever read, so that `prepare` may let the pooling work first."""

    called_whole = True


def _block(before: int, after: int, norm: Literal["none", "group"]) -> Block:
    layers: list[nn.Module] = [he(nn.Conv2d(before, after, kernel_size=3, padding="same"))]
    if norm == "group":
        layers.append(nn.GroupNorm(math.gcd(after, 8), after))
    return Block(*layers, nn.ReLU(), nn.MaxPool2d(2))


def _article_input(input_: ImageInput, labels: int) -> None:
    if (input_.height, input_.width, input_.channels) != (224, 224, 3):
        raise FileError(
            f"the preset `article-cnn` is for 224 x 224 x 3 images, `input` has "
            f"{input_.height} x {input_.width} x {input_.channels}",
            where="study.toml",
            fix='set `input.height`, `width` and `channels` to 224, 224 and 3, or `model.name` to "cnn"',
        )
    if labels != 2:
        raise FileError(
            f"the preset `article-cnn` has one sigmoid output, `study.labels` has {labels} labels",
            where="study.toml",
            fix='use two labels, or set `model.name` to "cnn"',
        )


register(Family("cnn", ImageInput, CnnSizes, Cnn, binary_outputs=1))
register(Preset("article-cnn", "cnn", CnnSizes(channels=(32, 64, 128), norm="none", dense=512), _article_input))
