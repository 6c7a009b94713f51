"""The registered model families and presets, and how a study's `[model]` section becomes a module.

A family is one file of this package: a struct of sizes, a module and one `register` call; every file here is imported
before the first look-up, so that adding the file is all there is to do. A preset is a family with all sizes fixed.

What a family's module guarantees: `forward(x, lengths=None)` takes a batch as `Dataset` describes it (float32, images
scaled to [-1, 1]; int64 tokens) and returns logits [batch, outputs]; no layer mixes records; all randomness of the
construction comes from torch's global generator, which `build_model` seeds and restores.
"""

import difflib
import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedmodels.errors import FileError
from fedmodels.models.device import device
from fedmodels.models.personal import Division, divide
from fedmodels.models.weights import unflatten
from fedmodels.study import Study
from fedmodels.study_input import Input
from fedmodels.typed import SizeValue, Strict


class Sizes(Strict, frozen=True):
    """Base of every family's sizes: immutable, unknown keys refused, a sensible default for every key."""


S = TypeVar("S", bound=Sizes)
In = TypeVar("In", bound=Input)


@dataclass(frozen=True)
class Family(Generic[S, In]):
    """A kind of model for one modality.

    input: the study's input section that it reads. build: (sizes, input, outputs) -> module with that many logits;
    raises `FileError` for sizes that do not fit the input. binary_outputs: 1 logit (sigmoid) or 2 (softmax) when there
    are two labels; more labels have one logit each.
    """

    name: str
    input: type[In]
    sizes: type[S]
    build: Callable[[S, In, int], nn.Module]
    binary_outputs: Literal[1, 2]


@dataclass(frozen=True)
class Preset:
    """A published architecture: a family with all sizes fixed.

    fits: (input, labels) -> None; raises `FileError` for an input or number of labels that is not the published one.
    """

    name: str
    family: str
    sizes: Sizes
    fits: Callable[[Any, int], None] | None = None


@dataclass(frozen=True)
class Architecture:
    """A model that is fully determined, without its weights."""

    family: str
    sizes: Sizes


_families: dict[str, Family[Any, Any]] = {}
_presets: dict[str, Preset] = {}


def register(entry: Family[Any, Any] | Preset) -> None:
    """Add a family or preset under its name, which must be free."""
    if entry.name in _families or entry.name in _presets:
        raise ValueError(f"a model named {entry.name!r} is registered already")
    if isinstance(entry, Family):
        _families[entry.name] = entry
    else:
        _presets[entry.name] = entry


def families() -> Mapping[str, Family[Any, Any]]:
    """The registered families by name, in ascending order."""
    _import_all()
    return MappingProxyType(dict(sorted(_families.items())))


def presets() -> Mapping[str, Preset]:
    """The registered presets by name, in ascending order."""
    _import_all()
    return MappingProxyType(dict(sorted(_presets.items())))


@functools.cache
def _import_all() -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"fedmodels.models.{module.name}")


def build_model(study: Study, seed: int | None = None) -> nn.Module:
    """The study's model with fresh weights, on the CPU.

    The weights are a function of the study and of `seed` (default: `training.seed`) alone, and torch's global generator
    is left as it was. `FileError` for an unknown model, another modality's model, or sizes the family does not accept.
    """
    design = architecture(study)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(study.training.seed if seed is None else seed)
        return construct(design, study.input, len(study.study.labels))


def model_with(study: Study, weights: npt.NDArray[np.floating]) -> nn.Module:
    """The study's model with given weights, see `unflatten`, to be trained or applied: on `device()`.

    That is `build_model` without first drawing weights of its own. For 51M weights that saves 0.3 s, half as much as a
    training step takes.
    """
    model = skeleton(architecture(study), study.input, len(study.study.labels)).to_empty(device=device())
    if any(True for _ in model.buffers()):
        raise TypeError("a family whose models have buffers would be left with arbitrary values in them")
    unflatten(model, weights)
    return model


def architecture(study: Study) -> Architecture:
    """The family and all sizes that the study's `[model]` section asks for, checked against its input and labels."""
    name, given = study.model.name, study.model.sizes
    if preset := presets().get(name):
        for key in given:
            raise FileError(
                f"`model.sizes.{key}`: the sizes of the preset `{name}` are fixed",
                where="study.toml",
                fix=f"remove it, or set `model.name` to `{preset.family}`, which has sizes to choose",
            )
        design = Architecture(preset.family, preset.sizes)
    elif family := families().get(name):
        design = Architecture(name, check_sizes(family, given))
    else:
        raise _unknown(name, study.input)
    if not isinstance(study.input, families()[design.family].input):
        raise FileError(
            f"the model `{name}` is for {_modality(families()[design.family].input)} input, "
            f"`input.modality` is `{_modality(type(study.input))}`",
            where="study.toml",
            fix=f"set `model.name` to one of: {', '.join(_names_for(study.input))}",
        )
    if preset and preset.fits:
        preset.fits(study.input, len(study.study.labels))
    return design


def check_sizes(family: Family[S, Any], given: Mapping[str, SizeValue], source: str = "study.toml") -> S:
    """`given` as the family's sizes; `FileError` naming the key for an unknown key, a wrong type or a bad value."""
    known = family.sizes.__struct_fields__
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" (is `{close[0]}` meant?)" if close else ""
            raise FileError(
                f"unknown key `model.sizes.{key}` for the model `{family.name}`{hint}",
                where=source,
                fix=f"the known keys are: {', '.join(known)}",
            )
    try:
        return msgspec.convert(dict(given), family.sizes, strict=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        key = re.sub(r"[`\[].*", "", path)
        raise FileError(
            f"`model.sizes{key}`: {what[0].lower()}{what[1:]}",
            where=source,
            fix=f"correct it; the known keys are: {', '.join(known)}",
        ) from None


def construct(design: Architecture, input_: Input, labels: int) -> nn.Module:
    """The module of an architecture, initialised from torch's global generator, on torch's default device."""
    family = families()[design.family]
    outputs = family.binary_outputs if labels == 2 else labels
    return family.build(design.sizes, input_, outputs)


def parameter_count(model: nn.Module) -> int:
    """The number of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def skeleton(design: Architecture, input_: Input, labels: int) -> nn.Module:
    """The module of an architecture without memory for its weights."""
    with torch.device("meta"):
        return construct(design, input_, labels)


def division(study: Study) -> Division:
    """Which weights of the study's model are exchanged, and which stay at each hospital."""
    return divide(skeleton(architecture(study), study.input, len(study.study.labels)), study.training.personal)


def expected_parameters(study: Study) -> int:
    """The number of weights that the study's parties exchange, without making the model."""
    return division(study).shared


def _modality(input_: type[Input]) -> str:
    return str(input_.__struct_config__.tag)


def _names_for(input_: Input) -> list[str]:
    fitting = [name for name, family in families().items() if isinstance(input_, family.input)]
    return fitting + [name for name, preset in presets().items() if preset.family in fitting]


def _unknown(name: str, input_: Input) -> FileError:
    close = difflib.get_close_matches(name, [*families(), *presets()], n=1)
    return FileError(
        f"`model.name`: there is no model `{name}`{f' (is `{close[0]}` meant?)' if close else ''}",
        where="study.toml",
        fix=f"the models for {_modality(type(input_))} input are: {', '.join(_names_for(input_))}",
    )
