"""A trained model as two files, enough to use it elsewhere: `model.safetensors` and `model.json`. Never pickle."""

from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fedmodels.data.features import feature_names
from fedmodels.errors import FileError, RunError, UsageError
from fedmodels.evaluation.calibration import Working
from fedmodels.files import read_text, write_synced
from fedmodels.models.registry import Architecture, architecture, check_sizes, families, skeleton
from fedmodels.study import About, Study
from fedmodels.study_input import ImageInput, Input, SeriesInput, TextInput
from fedmodels.typed import PositiveFloat, Probability, SizeValue, Strict

WEIGHTS, CARD = "model.safetensors", "model.json"


class Trained(Strict, frozen=True):
    """How a model came about, as `result.json` tells at more length.

    mode, epsilon, delta, observer: what is promised to a patient of any hospital, training and evaluation together, and
    against whom; epsilon and delta are None in mode `none`. metrics: of the test records, from counts summed in secret.
    lacks: layers that every hospital keeps to itself, whose weights here are those that training began with.
    """

    hospitals: int
    rounds: int
    mode: str
    epsilon: float | None
    delta: float | None
    observer: str
    metrics: dict[str, float]
    lacks: Literal["none", "norm", "head"] = "none"


class Card(Strict, frozen=True):
    """What `model.json` says: a model card (Mitchell et al., FAccT 2019) that programs can read.

    study: with its description, intended use and limits. model: the study's name for it (a preset or a family). family,
    sizes: the architecture, with every default written out. features: names along the feature axis. preprocessing: in
    words, for readers without this package. temperature, threshold: how `evaluation.calibration.calibrated` makes
    probabilities of the model's own, and from which of them on the second of two labels is predicted. trained: None for
    a model that no run made.
    """

    format: Literal[1]
    version: str
    study_hash: str
    study: About
    model: str
    family: str
    sizes: dict[str, SizeValue]
    input: Input
    features: tuple[str, ...]
    preprocessing: str
    temperature: PositiveFloat = 1.0
    threshold: Probability = 0.5
    specificity: Probability = 0.9
    trained: Trained | None = None

    @property
    def working(self) -> Working:
        """How the model is used."""
        return Working(self.temperature, self.threshold, self.specificity)


def save_model(
    directory: Path,
    model: nn.Module,
    study: Study,
    working: Working | None = None,
    trained: Trained | None = None,
) -> None:
    """Write the study's trained model into an existing directory; each file is replaced at once or not at all.

    model: as `build_model` made it, without a wrapper. working: how it is to be used, see `Card`.
    `RunError` if its weights are not those of the study's model, or not finite.
    """
    design, working = architecture(study), working or Working(specificity=study.evaluation.specificity)
    tensors = {name: p.detach().to("cpu").contiguous() for name, p in sorted(model.named_parameters())}
    if problem := _misfit(tensors, skeleton(design, study.input, len(study.study.labels))):
        raise RunError(problem, where=WEIGHTS, fix="save the model of this study, without a training wrapper")
    card = Card(
        format=1,
        version=metadata.version("fedmodels"),
        study_hash=study.digest.hex(),
        study=study.study,
        model=study.model.name,
        family=design.family,
        sizes=msgspec.to_builtins(design.sizes),
        input=study.input,
        features=feature_names(study.input),
        preprocessing=_preprocessing(study.input),
        temperature=working.temperature,
        threshold=working.threshold,
        specificity=working.specificity,
        trained=trained,
    )
    write_synced(directory / WEIGHTS, save(tensors))
    write_synced(directory / CARD, msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")


def load_model(directory: Path) -> tuple[nn.Module, Card]:
    """The model saved in a directory, in evaluation mode on the CPU, and its card.

    `UsageError` for a missing file; `FileError` for a malformed one, for weights that do not fit the architecture, and
    for features that this version of fedmodels would order differently.
    """
    card = _read_card(directory / CARD)
    where = str(directory / CARD)
    if (family := families().get(card.family)) is None or not isinstance(card.input, family.input):
        raise FileError(
            f"`family`: there is no model `{card.family}` for this input",
            where=where,
            fix=f"install the version of fedmodels that wrote it ({card.version})",
        )
    if card.features != feature_names(card.input):
        raise FileError(
            "`features` are not the ones that this version makes of `input`",
            where=where,
            fix=f"install the version of fedmodels that wrote it ({card.version})",
        )
    design = Architecture(card.family, check_sizes(family, card.sizes, where))
    model = skeleton(design, card.input, len(card.study.labels))
    tensors = _read_weights(directory / WEIGHTS)
    if problem := _misfit(tensors, model):
        raise FileError(
            problem, where=str(directory / WEIGHTS), fix=f"use the two files of one run ({WEIGHTS}, {CARD})"
        )
    model.load_state_dict(tensors, assign=True)
    return model.eval(), card


def load_whole_model(directory: Path) -> tuple[nn.Module, Card]:
    """`load_model`, for uses that need all of it: `UsageError` where hospitals keep layers to themselves."""
    model, card = load_model(directory)
    if card.trained and card.trained.lacks != "none":
        raise UsageError(
            "the hospitals of this study keep layers to themselves, which this model has only as they were before "
            f"training (`training.personal` is `{card.trained.lacks}`)",
            where=str(directory),
            fix="a hospital of the run makes a whole model of it: fedmodels client model SITE RUN OUT",
        )
    return model, card


def _read_card(path: Path) -> Card:
    try:
        return msgspec.json.decode(read_text(path), type=Card)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FileError(
            f"not a model card: {error}", where=str(path), fix="use the file as a fedmodels run wrote it"
        ) from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), fix="check the path") from None
    except SafetensorError:
        raise FileError("not a safetensors file", where=str(path), fix="copy it again from the run") from None


def _misfit(tensors: dict[str, Tensor], model: nn.Module) -> str:
    """Why these tensors cannot be the model's weights; empty if they can."""
    expected = dict(model.named_parameters())
    if missing := sorted(expected.keys() - tensors.keys()):
        return f"the weights `{missing[0]}` are missing"
    if unknown := sorted(tensors.keys() - expected.keys()):
        return f"the weights `{unknown[0]}` are not part of this model"
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            return (
                f"the weights `{name}` are {tensor.dtype} {list(tensor.shape)} instead of "
                f"{expected[name].dtype} {list(expected[name].shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            return f"the weights `{name}` are not all finite numbers"
    return ""


def _preprocessing(input_: Input) -> str:
    match input_:
        case ImageInput():
            return "pixels clipped to [low, high] and scaled linearly to [-1, 1]"
        case SeriesInput():
            return "values clipped to [low, high] and scaled to [0, 1], on a grid of `steps` intervals; see features"
        case TextInput():
            return "tokens hashed into `vocabulary` buckets, `max_tokens` kept as `keep` says, 0 as padding"
        case _:
            return "numbers clipped to [low, high] and scaled to [0, 1], categories one-hot; see features"
