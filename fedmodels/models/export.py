"""A trained model as `model.onnx`, for programs without PyTorch: from scaled input to probabilities in one graph.

Needs the extra `onnx`. What is exported is compared with the model in PyTorch before anything is written.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedmodels.data.features import feature_count
from fedmodels.errors import RunError, UsageError
from fedmodels.files import write_synced
from fedmodels.models.artifact import CARD, WEIGHTS, Card, load_whole_model
from fedmodels.models.losses import AtTemperature, probabilities
from fedmodels.models.registry import parameter_count
from fedmodels.study_input import ImageInput, Input, SeriesInput, TextInput

ONNX = "model.onnx"
OPSET = 20
_AGREEMENT = 1e-5
_BATCHES = (1, 2, 5)
_MOST_BYTES = 2_000_000_000  # of a protobuf message, less room for the graph


class Classifier(nn.Module):
    """A trained model's answer: [n, labels] calibrated probabilities of scaled input.

    A record whose length is impossible, which PyTorch refuses and a graph cannot, gets NaN.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = AtTemperature(model, temperature)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        chances = probabilities(self.model(x, lengths))
        if lengths is None:
            return chances
        return chances.masked_fill(((lengths < 1) | (lengths > x.shape[1]))[:, None], torch.nan)


def export(run: Path, out: Path) -> float:
    """Write `model.onnx`, `model.safetensors` and `model.json` of a run into a folder.

    Returns the largest difference of a probability between ONNX Runtime and PyTorch on random input. `RunError`, and no
    file, where it is above 1e-5 or the model has something that ONNX has not; `UsageError` without the extra `onnx`,
    for a model too large for one file, and where a file is there already.
    """
    if absent := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise UsageError(
            f"{', '.join(absent)} is not installed", fix="install the extra: pip install 'fedmodels[onnx]'"
        )
    for name in (ONNX, WEIGHTS, CARD):
        if (out / name).exists():
            raise UsageError("the file exists already", where=str(out / name), fix="name a new folder")
    model, card = load_whole_model(run)
    if 4 * parameter_count(model) > _MOST_BYTES:
        raise UsageError("an ONNX file holds at most 2 GB of weights", where=str(run), fix=f"use {WEIGHTS}")
    classifier = Classifier(model, card.temperature).eval()
    content = to_onnx(classifier, card)
    worst = difference(content, classifier, card.input)
    if not worst <= _AGREEMENT:
        raise RunError(
            f"ONNX Runtime and PyTorch differ by {worst:.1e}, more than {_AGREEMENT:.0e}",
            where=ONNX,
            fix=f"use {WEIGHTS}, and report the model's sizes as a bug",
        )
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CARD):
        write_synced(out / name, (run / name).read_bytes())
    write_synced(out / ONNX, content)
    return worst


def to_onnx(classifier: nn.Module, card: Card) -> bytes:
    """The graph, with the card's constants as metadata and without the paths of this machine.

    Inputs: x as `Dataset` describes it, images scaled to [-1, 1]; lengths [batch] where records have them. Output:
    probabilities [batch, labels]. The batch may have any size.
    """
    import onnx

    inputs = random_inputs(card.input, 3)
    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                classifier,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["probabilities"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                opset_version=OPSET,
                external_data=False,
            )
        except torch.onnx.OnnxExporterError:
            raise RunError(
                f"the model `{card.model}` has something that ONNX has not", where=ONNX, fix=f"use {WEIGHTS}"
            ) from None
    if program is None:
        raise RunError("the exporter gave nothing", where=ONNX, fix=f"use {WEIGHTS}")
    proto = program.model_proto
    _strip(proto)
    proto.producer_name, proto.producer_version = "fedmodels", card.version
    onnx.helper.set_model_props(proto, _metadata(card))
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def difference(content: bytes, classifier: nn.Module, input_: Input) -> float:
    """The largest difference of a probability between the two on random input in batches of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in _BATCHES:
        inputs = random_inputs(input_, size)
        with torch.no_grad():
            expected = classifier(*inputs.values()).numpy()
        (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        worst = max(worst, _largest(found, expected))
    return worst


def random_inputs(input_: Input, size: int) -> dict[str, Tensor]:
    """x, and lengths where records have them, anywhere in their range; the same for the same size."""
    draw = torch.Generator().manual_seed(size)
    match input_:
        case ImageInput():
            shape = (size, input_.channels, input_.height, input_.width)
            return {"x": 2.0 * torch.rand(shape, generator=draw) - 1.0}
        case SeriesInput():
            x, most = torch.rand(size, input_.steps, feature_count(input_), generator=draw), input_.steps
        case TextInput():
            x = torch.randint(0, input_.vocabulary, (size, input_.max_tokens), generator=draw)
            most = input_.max_tokens
        case _:
            return {"x": torch.rand(size, feature_count(input_), generator=draw)}
    return {"x": x, "lengths": torch.randint(1, most + 1, (size,), generator=draw)}


def _largest(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Infinite for arrays of different shapes, NaN for NaN."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else np.inf


def _metadata(card: Card) -> dict[str, str]:
    return {
        "study": card.study.name,
        "study_hash": card.study_hash,
        "labels": json.dumps(card.study.labels, ensure_ascii=False),
        "input": msgspec.json.encode(card.input).decode(),
        "features": json.dumps(card.features, ensure_ascii=False),
        "preprocessing": card.preprocessing,
        "temperature": repr(card.temperature),
        "threshold": repr(card.threshold),
    }


def _strip(proto: Any) -> None:  # noqa: ANN401 - onnx.ModelProto, of an extra
    """Take out what the exporter notes for its own developers: stack traces with the paths of this machine."""
    del proto.metadata_props[:]
    graph = proto.graph
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress to people who debug it."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
