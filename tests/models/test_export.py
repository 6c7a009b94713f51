"""`model.onnx` predicts what the model in PyTorch predicts, says what it needs, and is not kept if it does not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model_studies import IMAGE, SERIES, TABLE, TEXT, a_study

from fedmodels.data.dataset import TEST, Dataset
from fedmodels.errors import RunError, UsageError
from fedmodels.evaluation.calibration import Working, calibrated
from fedmodels.models import export as exporting
from fedmodels.models.artifact import CARD, WEIGHTS, load_model, save_model
from fedmodels.models.batches import predict
from fedmodels.models.export import ONNX, OPSET, Classifier, difference, export, random_inputs
from fedmodels.models.registry import build_model

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

# Every family, every pooling, one and several outputs. The other presets differ in their sizes alone. Few steps: the
# exporter goes through them one by one.
SHORT_SERIES, SHORT_TEXT = SERIES.replace("steps = 6", "steps = 3"), TEXT.replace("= 7", "= 3")
CASES = [
    ("cnn", IMAGE, "", 2),
    ("mlp", TABLE, "", 3),
    ("gru", SHORT_SERIES, "pool = 'max'", 2),
    ("text-lstm", SHORT_TEXT, "", 3),
    ("article-lstm", SHORT_SERIES, "", 2),
    ("article-text-gru", SHORT_TEXT, "", 3),
]


def a_run(folder: Path, name: str, input_: str, sizes: str = "", labels: int = 2) -> Path:
    study = a_study(name, input_, sizes, labels)
    folder.mkdir(exist_ok=True)
    save_model(folder, build_model(study, seed=4), study, Working(temperature=2.5, threshold=0.3))
    return folder


@pytest.mark.parametrize(("name", "input_", "sizes", "labels"), CASES)
def test_an_exported_model_predicts_alike_for_any_number_of_records(
    name: str, input_: str, sizes: str, labels: int, tmp_path: Path
) -> None:
    run, out = a_run(tmp_path / "run", name, input_, sizes, labels), tmp_path / "out"
    assert export(run, out) <= 1e-5
    for file in (WEIGHTS, CARD):
        assert (out / file).read_bytes() == (run / file).read_bytes()
    model, card = load_model(out)
    session = onnxruntime.InferenceSession(out / ONNX, providers=["CPUExecutionProvider"])
    inputs = random_inputs(card.input, 11)
    (found,) = session.run(["probabilities"], {key: value.numpy() for key, value in inputs.items()})
    with torch.no_grad():
        assert np.abs(found - Classifier(model, card.temperature)(*inputs.values()).numpy()).max() < 1e-5
    assert found.shape == (11, labels)
    assert found.sum(1) == pytest.approx(np.ones(11), abs=1e-5)
    if "lengths" in inputs:
        _check_impossible_lengths(session, inputs)

    proto = onnx.load(out / ONNX)
    said = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(said["labels"]) == list(card.study.labels)
    assert (said["study_hash"], said["preprocessing"]) == (card.study_hash, card.preprocessing)
    assert (said["temperature"], said["threshold"]) == ("2.5", "0.3")
    assert json.loads(said["input"]) == json.loads((out / CARD).read_text())["input"]
    assert [entry.version for entry in proto.opset_import if not entry.domain] == [OPSET]
    for path in (str(Path(__file__).parents[2]), "site-packages", str(Path.home())):
        assert path.encode() not in (out / ONNX).read_bytes()


def _check_impossible_lengths(session: "onnxruntime.InferenceSession", inputs: dict[str, torch.Tensor]) -> None:
    lengths = np.array([1, inputs["x"].shape[1], 0, -1])
    (found,) = session.run(None, {"x": inputs["x"][:4].numpy(), "lengths": lengths})
    assert np.isnan(found).all(axis=1).tolist() == [False, False, True, True]
    assert not np.isnan(found[:2]).any()


def test_the_exported_model_predicts_what_predict_says(tmp_path: Path) -> None:
    run = a_run(tmp_path, "mlp", TABLE)
    export(run, tmp_path / "out")
    model, card = load_model(run)
    x = np.random.default_rng(0).random((5, 6), dtype=np.float32)
    data = Dataset(np.array(list("abcde")), x, np.zeros(5, dtype=np.int64), np.full(5, TEST, dtype=np.uint8))
    session = onnxruntime.InferenceSession(tmp_path / "out" / ONNX)
    expected = calibrated(predict(model, data, card.input), 2.5)
    assert session.run(None, {"x": x})[0] == pytest.approx(expected, abs=1e-6)
    assert np.abs(expected - predict(model, data, card.input)).max() > 0.01


def test_a_graph_that_predicts_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path / "run", "mlp", TABLE)
    to_onnx = exporting.to_onnx

    def slightly_wrong(classifier: Classifier, card: object) -> bytes:
        with torch.no_grad():
            classifier.model.model.output.bias += 1e-2
            content = to_onnx(classifier, card)
            classifier.model.model.output.bias -= 1e-2
        return content

    monkeypatch.setattr(exporting, "to_onnx", slightly_wrong)
    with pytest.raises(RunError, match=r"differ by \d\.\de-0[34]"):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [np.full((1, 2), np.nan, dtype=np.float32), np.zeros((1, 1), dtype=np.float32)])
def test_nan_and_another_shape_are_differences(answer: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, *_: object) -> list[np.ndarray]:
            return [answer]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    study = a_study("mlp", TABLE)
    assert not difference(b"", Classifier(build_model(study), 1.0).eval(), study.input) <= 1e-5


def test_what_cannot_be_exported_is_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path, "mlp", TABLE)
    with pytest.raises(UsageError, match="exists already"):
        export(run, run)
    with pytest.raises(UsageError, match="no such file"):
        export(tmp_path / "nowhere", tmp_path / "out")
    monkeypatch.setattr(exporting, "_MOST_BYTES", 100)
    with pytest.raises(UsageError, match="at most 2 GB"):
        export(run, tmp_path / "out")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else sys)
    with pytest.raises(UsageError, match="onnxscript is not installed") as caught:
        export(run, tmp_path / "out")
    assert "fedmodels[onnx]" in caught.value.fix
    assert not (tmp_path / "out").exists()
