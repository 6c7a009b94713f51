"""The device that models are trained and applied on: a GPU where torch has one, else the CPU.

`FEDMODELS_DEVICE` chooses another one. Vectors that leave a machine, files and explanations are always of the CPU, and
so are audits' attacks, but for the models of membership inference. What decides who is in a batch and what the noise is
comes from the CPU's secure generator.
"""

import os
import re

import torch
from torch import nn

from fedmodels.errors import UsageError

VARIABLE = "FEDMODELS_DEVICE"

_KNOWN = re.compile(r"cpu|cuda(?::(0|[1-9][0-9]{0,2}))?")
_CPU = torch.device("cpu")


def device() -> torch.device:
    """What `FEDMODELS_DEVICE` says, else the present CUDA device if torch has any, else the CPU.

    `UsageError` for a name that is neither `cpu` nor `cuda` nor `cuda:0`, `cuda:1` .., and for a device that torch does
    not have: a hospital that asks for its GPU is not to train on the CPU without a word.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return torch.device("cuda") if torch.cuda.is_available() else _CPU
    known = _KNOWN.fullmatch(chosen)
    if known is None:
        raise UsageError(f"there is no device `{chosen}`", where=VARIABLE, fix="set it to cpu, cuda, or cuda:1, say")
    if chosen != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(known[1] or 0) >= count:
            raise UsageError(
                f"torch {torch.__version__} finds {count} CUDA devices here, so there is no `{chosen}`",
                where=VARIABLE,
                fix="check torch's build, the driver and access to /dev/nvidia* (docs/deploy.md); or set it to cpu",
            )
    return torch.device(chosen)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU, if it has none."""
    return next((p.device for p in model.parameters()), _CPU)


def image_format(where: torch.device) -> torch.memory_format:
    """Convolutions and pooling on the CPU take about a quarter less time with channels last; values stay the same.

    On CUDA, GroupNorm would have to copy everything back.
    """
    return torch.channels_last if where.type == "cpu" else torch.contiguous_format
