"""The privacy rules about what a model and its data may be, each beside a variant that breaks it (see `test_rules`)."""

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from federations import tiny_study
from torch import nn

from client import contribution, training
from client.contribution import counts_vector, own_results
from fedmodels.data import load as loading
from fedmodels.data import table, text
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.plan import Plan
from fedmodels.errors import PrivacyError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import evaluation_layout, unpack_counts
from fedmodels.study import Hospital, Roster, Study, parse_study
from simulations.cohorts import write_cohort

STUDIES = Path(__file__).parents[2] / "simulations" / "studies"
STUDY = tiny_study()
ROSTER = Roster(tuple(Hospital(f"h{i}", f"{i:064x}", 100) for i in range(4)))
PLAN = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)


def patients(count: int) -> Dataset:
    x = np.random.default_rng(0).normal(size=(count, feature_count(STUDY.input))).astype(np.float32)
    names = np.array([f"p{i:04}" for i in range(count)])
    return Dataset(names, x, (np.arange(count) % 2).astype(np.int64), np.full(count, TRAIN, np.uint8))


# --- 6: no layer that mixes patients --------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A model of one extra layer, with the forward that the registry's models have."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(feature_count(STUDY.input), 8), layer, nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return self.last(self.layer(self.first(x)))


def trained_with(monkeypatch: pytest.MonkeyPatch, layer: nn.Module) -> np.ndarray:
    model = Tiny(layer)
    monkeypatch.setattr(training, "model_with", lambda study, weights: model)
    return training.train_private(STUDY, flatten(model), patients(5), PLAN, 100).delta


def test_rule_6_batch_norm_is_refused_and_group_norm_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrivacyError, match="BatchNorm"):
        trained_with(monkeypatch, nn.BatchNorm1d(8))
    assert trained_with(monkeypatch, nn.GroupNorm(2, 8)).any()


class Centred(nn.Module):
    """A layer that nobody knows, and that mixes patients."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x - x.mean(0))


@pytest.mark.parametrize("layer", [nn.Sequential(nn.ReLU(), nn.BatchNorm1d(8, affine=False)), Centred()])
def test_rule_6_layers_without_weights_and_unknown_layers_are_refused_too(
    monkeypatch: pytest.MonkeyPatch, layer: nn.Module
) -> None:
    with pytest.raises(PrivacyError):
        trained_with(monkeypatch, layer)


def influence_on_others(layer: nn.Module) -> float:
    """How much one record's gradient changes when another record of the batch does."""
    torch.manual_seed(0)
    model = Tiny(layer)
    gradients_of_first = []
    for scale in (1.0, 1e3):
        x = torch.from_numpy(patients(4).x).clone()
        x[3] *= scale
        output = model(x)[0].sum()
        gradients_of_first.append(torch.cat([g.ravel() for g in torch.autograd.grad(output, list(model.parameters()))]))
    return float((gradients_of_first[0] - gradients_of_first[1]).abs().max())


def test_rule_6_is_about_records_that_change_each_others_gradients() -> None:
    assert influence_on_others(nn.GroupNorm(2, 8)) < 1e-6
    for layer in (nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), Centred()):
        assert influence_on_others(layer) > 1e-3


# --- 7 and 8: normalisation and vocabulary are public ----------------------------------------------------------------


def changes_others(tmp_path: Path, kind: str, study: Study) -> bool:
    """Whether the other patients' features change when the first patient is not in the file."""
    loading._pools.clear()
    shutil.rmtree(tmp_path / "with", ignore_errors=True)
    shutil.rmtree(tmp_path / "without", ignore_errors=True)
    folder = write_cohort(kind, tmp_path / "with", 1, 30, 0)[0].parent  # type: ignore[arg-type]
    shutil.copytree(folder, tmp_path / "without")
    (source,) = (tmp_path / "without").glob("*.csv")
    header, _, *others = source.read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("".join([header, *others]), encoding="utf-8")
    whole, part = loading.load(folder / "data.toml", study), loading.load(tmp_path / "without" / "data.toml", study)
    assert list(part.patients) == list(whole.patients[1:])
    return not np.array_equal(part.x, whole.x[1:])


def test_rule_7_normalisation_takes_nothing_from_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not changes_others(tmp_path, "table", STUDY)
    scaled = table._features

    def standardised(frame: pl.DataFrame, *rest: object) -> np.ndarray:
        values = scaled(frame, *rest)  # type: ignore[arg-type]
        return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6)

    monkeypatch.setattr(table, "_features", standardised)
    assert changes_others(tmp_path, "table", STUDY)


def test_rule_8_the_vocabulary_takes_nothing_from_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = parse_study((STUDIES / "synthetic-text" / "study.toml").read_text(encoding="utf-8"))
    assert not changes_others(tmp_path, "text", study)
    known: dict[str, int] = defaultdict(lambda: len(known) + 1)

    def learnt(words: str, input_: object) -> list[int]:
        return [known[word] for word in text._TOKEN.findall(words)][:7]

    def fresh_each_time(*arguments: object) -> Dataset:
        known.clear()
        return read(*arguments)  # type: ignore[arg-type]

    read = loading.read_texts
    monkeypatch.setattr(text, "tokenise", learnt)
    monkeypatch.setattr(loading, "read_texts", fresh_each_time)
    assert changes_others(tmp_path, "text", study)


# --- 9: evaluation counts carry noise of their own -------------------------------------------------------------------


def test_rule_9_evaluation_counts_carry_the_noise_that_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    model, nobody = flatten(build_model(STUDY)), patients(1).take([])
    ratio = np.exp(-STUDY.privacy.evaluation_epsilon / evaluation_layout(STUDY).sensitivity)

    def agrees() -> bool:
        draws = [
            unpack_counts(counts_vector(STUDY, ROSTER, own_results(STUDY, nobody, model)[0]), ROSTER)
            for _ in range(200)
        ]
        return bool(np.var(draws) == pytest.approx(2 * ratio / (1 - ratio) ** 2, rel=0.1))

    assert agrees()
    noise = contribution.discrete_laplace
    monkeypatch.setattr(contribution, "discrete_laplace", lambda count, scale, source: noise(count, scale / 2, source))
    assert not agrees()
