"""What a card says of temperature and threshold is what predictions, metrics and explanations follow."""

import csv
import io
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from federations import run
from html_page import Page
from typer.testing import CliRunner

from fedmodels.cli import app
from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.errors import FileError
from fedmodels.evaluation.calibration import calibrated
from fedmodels.evaluation.explanations import pictures
from fedmodels.models.artifact import load_model
from fedmodels.models.batches import predict


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("finished")
    _, _, federation = run(folder, "privacy.mode=none")
    return folder / "run", federation.sites[0] / "data.toml"


@pytest.fixture
def scaled(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The run with another card: temperature 0.5, threshold 0.8."""
    out = Path(shutil.copytree(finished[0], tmp_path / "run"))
    change(out, temperature=0.5, threshold=0.8)
    return out, finished[1]


def change(run: Path, **values: float) -> None:
    card = json.loads((run / "model.json").read_text()) | values
    (run / "model.json").write_text(json.dumps(card))


def said(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.exception
    return result.output


def test_predictions_are_calibrated_and_labelled_at_the_threshold(scaled: tuple[Path, Path]) -> None:
    out, binding = scaled
    model, card = load_model(out)
    data = load(binding, card)
    expected = calibrated(predict(model, data, card.input), 0.5)
    rows = list(csv.reader(io.StringIO(said("predict", out, "--data", binding))))[1:]
    assert np.array([row[2:] for row in rows], float) == pytest.approx(expected, abs=1e-6)
    assert [row[1] for row in rows] == ["diseased" if p >= 0.8 else "healthy" for p in expected[:, 1]]
    assert ((expected[:, 1] >= 0.5) & (expected[:, 1] < 0.8)).any()  # the threshold matters here


def test_evaluate_measures_the_model_as_it_is_used(scaled: tuple[Path, Path]) -> None:
    out, binding = scaled
    model, card = load_model(out)
    data = load(binding, card).part(TEST)
    metrics = json.loads(said("evaluate", out, "--data", binding, "--json"))["metrics"]
    p = calibrated(predict(model, data, card.input), 0.5)
    assert metrics["sensitivity"] == pytest.approx((p[data.y == 1, 1] >= 0.8).mean())
    assert metrics["loss_calibrated"] == pytest.approx(-np.log(p[np.arange(len(p)), data.y]).mean())
    assert metrics["loss"] != pytest.approx(metrics["loss_calibrated"])


def test_an_explanation_names_the_label_and_the_probability_that_predict_gives(scaled: tuple[Path, Path]) -> None:
    out, binding = scaled
    rows = list(csv.reader(io.StringIO(said("predict", out, "--data", binding))))[1:]
    for picture, row in zip(pictures(*load_model(out), binding, most=3), rows, strict=False):
        assert f"Predicted: {row[1]} (probability " in picture.title


def test_the_report_shows_examples_that_somebody_names(finished: tuple[Path, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "run"))
    assert "must be synthetic, or of people who agreed" in " ".join(
        said("report", out, "--examples", finished[1]).split()
    )
    page = Page((out / "report.html").read_text())
    assert sum(tag == "h3" and text.startswith("Predicted: ") for tag, text in page.named) > 0
    assert len(page.all("svg")) == 3 + 3 + 4
    assert not page.all("script")
    said("report", out)
    assert "Predicted: " not in (out / "report.html").read_text()


@pytest.mark.parametrize("value", [{"temperature": 0.0}, {"threshold": 1.5}, {"threshold": -0.1}])
def test_a_card_with_an_impossible_value_is_refused(
    finished: tuple[Path, Path], tmp_path: Path, value: dict[str, float]
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "run"))
    change(out, **value)
    with pytest.raises(FileError, match="not a model card"):
        load_model(out)


def test_the_result_has_all_that_the_counts_say(finished: tuple[Path, Path]) -> None:
    result = msgspec.json.decode((finished[0] / "result.json").read_bytes())
    assert {"intervals", "binning_error", "optimism", "operating_point", "calibration"} <= result.keys()
    assert sum(msgspec.json.decode((finished[0] / "counts.json").read_bytes())["counts"]) == result["metrics"]["n"]
