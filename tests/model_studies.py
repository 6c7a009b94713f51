"""Small studies, one input per family, that the tests of models, explanations and export share."""

import torch
from torch import Tensor

from fedmodels.study import Study, parse_study

IMAGE = "modality = 'image'\nheight = 28\nwidth = 28"
IMAGE_224 = "modality = 'image'\nheight = 224\nwidth = 224\nchannels = 3"
# 2 variables and 1 static: 2 * 3 + 2 = 8 features.
SERIES = """modality = 'series'
steps = 6
variables = [{name = 'a', low = 0, high = 1}, {name = 'b', low = 0, high = 1}]
statics = [{name = 'c', low = 0, high = 1}]"""
TEXT = "modality = 'text'\nvocabulary = 50\nmax_tokens = 7"
# A number (2) and a category of 3 values (4): 6 features.
TABLE = "modality = 'table'\ncolumns = [{name = 'n'}, {name = 'k', kind = 'category', values = ['x', 'y', 'z']}]"
INPUTS = {"cnn": IMAGE, "lstm": SERIES, "gru": SERIES, "text-lstm": TEXT, "text-gru": TEXT, "mlp": TABLE}


def a_study(name: str, input_: str, sizes: str = "", labels: int = 2) -> Study:
    names = ", ".join(f"'{n}'" for n in range(labels))
    return parse_study(
        f"study = {{name = 's', task = '{'binary' if labels == 2 else 'multiclass'}', labels = [{names}]}}\n"
        "training = {rounds = 1, seed = 5}\nprivacy = {mode = 'none'}\nfederation = {hospitals = 3}\n"
        f"[model]\nname = '{name}'\n[model.sizes]\n{sizes}\n[input]\n{input_}\n"
    )


def a_batch(name: str, size: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """(x, lengths, y) for a family's input above, of three labels."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 7, (size,), generator=generator)
    y = torch.randint(0, 3, (size,), generator=generator)
    match name.removeprefix("text-"), name.startswith("text-"):
        case "cnn", _:
            return torch.randn(size, 1, 28, 28, generator=generator), None, y
        case "mlp", _:
            return torch.randn(size, 6, generator=generator), None, y
        case _, True:
            return torch.randint(0, 50, (size, 7), generator=generator), lengths, y
        case _:
            return torch.randn(size, 6, 8, generator=generator), lengths, y
