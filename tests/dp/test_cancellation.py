"""A patient whose own terms cancel: however long they are, it moves a sum by at most the clip.

A single-precision sum over patients would pass through the terms themselves, and round everybody else's part away. The
controls do that.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from federations import tiny_study
from torch import Tensor, nn

from client.training import gradient_sum
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.clipping import embedding, entries
from fedmodels.dp.clipping.embedding import Rows
from fedmodels.dp.clipping.entries import Entry, Outer, PerRecord, Summed, matrix_entry, squares, vector_entry
from fedmodels.dp.gradients import clip_factors
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Study, parse_study

ALLOWED = 1 + 1 / 256
EVERYONE = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)
SIZES = [1e3, 1e5, 1e7, 1e9, 1e12, 1e15, 1e18]
RESIDUES = [0.0, 1e-6, 1e-3]  # what is left of the last patient's terms, as a part of one


def outer(size: float, residue: float, steps: int = 2) -> Outer:
    """64 patients with t terms of a matrix [600, 600]; those of the last one are `size` times longer and cancel."""
    draw = torch.Generator().manual_seed(0)
    a, g = (torch.randn(64, steps, 600, generator=draw) / 25 for _ in range(2))
    a[-1] = a[-1, :1]
    g[-1] = size * g[-1, :1]
    g[-1, 1::2] *= -1 + residue
    return Outer(nn.Parameter(torch.zeros(600, 600)), a, g)


def rows(size: float, residue: float, steps: int = 2) -> Rows:
    """The same of a table; everybody looks up the same row."""
    entry = outer(size, residue, steps)
    ids = torch.zeros(64, steps, dtype=torch.int64)
    return Rows.of(nn.Parameter(torch.zeros(3, 600)), ids, entry.outputs, -1)


def in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms are right, but sums are single-precision ones of all terms."""

    def added(entry: Outer, factors: Tensor) -> Tensor:
        left = (entry.outputs * factors[:, None, None]).flatten(0, 1).t()
        return left @ entry.inputs.flatten(0, 1)

    def squared_norms(entry: Rows) -> Tensor:
        return measured(replace(entry, outputs=combined(entry.ids, entry.outputs, len(entry.parameter))))

    combined, measured = embedding.combined, Rows.squared_norms
    without_floor(monkeypatch)
    monkeypatch.setattr(Outer, "added", added)
    monkeypatch.setattr(Rows, "squared_norms", squared_norms)
    monkeypatch.setattr(embedding, "combined", lambda ids, outputs, size: outputs)


def without_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "at_least", lambda squared, lengths, additions: squared)


def moved(entry: Entry) -> float:
    """How far the last patient moves the sum of clipped gradients, the clip being 1."""

    def clipped(some: Entry) -> Tensor:
        factors = clip_factors(some.squared_norms().sqrt(), 1.0)
        return some.added(factors.to(some.parameter.dtype)).double()

    return float((clipped(entry) - clipped(entry.select(torch.arange(entry.records - 1)))).norm())


@pytest.mark.parametrize("make", [outer, rows])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("residue", RESIDUES)
def test_terms_that_cancel_move_the_sum_by_at_most_the_clip(
    make: Callable[[float, float], Entry], size: float, residue: float
) -> None:
    assert moved(make(size, residue)) <= ALLOWED


@pytest.mark.parametrize("make", [outer, rows])
def test_also_many_terms_and_matrices_that_are_made_to_be_measured(
    make: Callable[[float, float, int], Entry],
) -> None:
    assert moved(make(1e7, 0.0, 400)) <= ALLOWED


@pytest.mark.parametrize("make", [outer, rows])
def test_the_tests_would_notice_a_sum_in_single_precision(
    make: Callable[[float, float], Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_single(monkeypatch)
    assert moved(make(1e9, 0.0)) > 2.0


def test_double_precision_alone_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    without_floor(monkeypatch)
    assert moved(outer(1e18, 0.0)) > 2.0


@pytest.mark.parametrize("make", [outer, rows])
def test_sums_and_norms_of_what_does_not_cancel_are_exact(make: Callable[[float, float], Entry]) -> None:
    entry = make(1e7, 1.5)
    exact = replace(entry, outputs=entry.outputs.double(), parameter=entry.parameter.double())
    if isinstance(exact, Outer):
        exact = replace(exact, inputs=exact.inputs.double())
    whole = torch.stack([exact.select(torch.tensor([i])).added(torch.ones(1).double()) for i in range(64)])
    norms = whole.flatten(1).norm(dim=1)
    torch.testing.assert_close(entry.squared_norms().sqrt(), norms, rtol=1e-6, atol=0.0)
    factors = clip_factors(norms, 1.0)
    found = entry.added(factors.float()).double()
    torch.testing.assert_close(found, torch.tensordot(factors, whole, 1), rtol=1e-6, atol=1e-6)


def test_products_of_tiny_and_huge_numbers_are_not_measured_as_nothing() -> None:
    """Squares of the activations underflow in single precision, their products with the gradients do not."""
    entry = Outer(nn.Parameter(torch.zeros(1, 1000)), torch.full((1, 1, 1000), 1e-23), torch.full((1, 1, 1), 1e19))
    made = (entry.outputs.double().mT @ entry.inputs.double()).norm()
    assert float(entry.squared_norms().sqrt()) >= float(made) > 1e-3


# --- sums that are made ----------------------------------------------------------------------------------------------


def made(kind: str, count: int, size: float, steps: int = 48) -> Entry:
    """Sums over t terms in pairs that cancel, of every record: of a matrix [60, 40], or a vector [60]."""
    draw = torch.Generator().manual_seed(1)
    a, g = (torch.randn(count, steps, width, generator=draw) for width in (40, 60))
    order = torch.randperm(steps, generator=draw)
    a[:, order[::2]], g[:, order[::2]] = a[:, order[1::2]], -g[:, order[1::2]]
    if kind == "vector":
        return vector_entry(nn.Parameter(torch.zeros(60)), size * g)
    return matrix_entry(nn.Parameter(torch.zeros(60, 40)), a, size * g)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_sums_that_cancel_count_for_nothing_and_not_for_their_rounding(kind: str, size: float) -> None:
    entry = made(kind, 100, size)
    assert isinstance(entry, Summed)
    factors = clip_factors(entry.squared_norms().sqrt(), 1.0)
    for i in range(100):
        assert float(entry.select(torch.tensor([i])).added(factors[i : i + 1].float()).norm()) < 1e-7


@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_in_single_precision_their_rounding_would_count_as_a_gradient(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_CANCELS", 0.0)
    without_floor(monkeypatch)
    entry = made(kind, 1, 1e9)
    factors = clip_factors(entry.squared_norms().sqrt(), 1.0)
    assert float(entry.added(factors.float()).norm()) > 0.99


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33, 64])
@pytest.mark.parametrize("kind", ["matrix", "vector"])
def test_a_records_gradient_is_the_same_number_whoever_else_is_there(kind: str, count: int) -> None:
    """Also where nothing cancels enough to be made twice."""
    draw = torch.Generator().manual_seed(2)
    a, g = (torch.randn(64, 48, width, generator=draw) for width in (40, 60))
    g[32:] = g[32:].abs()
    if kind == "matrix":
        whole, some = (matrix_entry(nn.Parameter(torch.zeros(60, 40)), a[-n:], g[-n:]) for n in (64, count))
    else:
        whole, some = (vector_entry(nn.Parameter(torch.zeros(60)), g[-n:]) for n in (64, count))
    assert isinstance(whole, Summed)
    assert isinstance(some, Summed)
    assert torch.equal(whole.made.gradients[-count:], some.made.gradients)
    assert torch.equal(whole.squared_norms()[-count:], some.squared_norms())


@pytest.mark.parametrize("shape", [(600, 600, 2), (512, 128, 48), (512, 128, 2), (144, 48, 200), (2000, 300, 14)])
def test_how_a_gradient_is_kept_does_not_depend_on_the_number_of_records(shape: tuple[int, int, int]) -> None:
    rows, columns, steps = shape
    parameter = nn.Parameter(torch.zeros(rows, columns))
    kinds = set()
    for count in (0, 1, 46, 47, 192, 193, 5000):
        inputs, outputs = (torch.zeros(1).expand(count, steps, width) for width in (columns, rows))
        kinds.add(type(matrix_entry(parameter, inputs, outputs)))
    assert len(kinds) == 1


# --- end to end ----------------------------------------------------------------------------------------------------


def a_table(patients: int) -> tuple[Study, Callable[[float], np.ndarray], Dataset]:
    """Hidden units in pairs that are alike, with opposite weights: every logit is 0, whatever the weights."""
    study = tiny_study("training.batch_rate=1.0", "training.records=2", "model.sizes={ hidden = [600, 600] }")

    def weights(size: float) -> np.ndarray:
        model = build_model(study)
        with torch.no_grad():
            for values in (model.hidden[1][0].weight, model.hidden[1][0].bias):
                values[1::2] = values[::2]
            model.output.weight.copy_(size * torch.tensor([1.0, -1.0]).repeat(300))
            model.output.bias.zero_()
        return flatten(model)

    x = np.random.default_rng(0).normal(size=(patients, feature_count(study.input))).astype(np.float32)
    return study, weights, of_patients(x, None)


def a_text(patients: int) -> tuple[Study, Callable[[float], np.ndarray], Dataset]:
    """Word 1 has no vector, so the state of the last patient, who says nothing else, stays at 0, and so its logits."""
    study = parse_study(
        "study = {name = 's', task = 'binary', labels = ['a', 'b']}\nprivacy = {mode = 'none'}\n"
        "input = {modality = 'text', vocabulary = 50, max_tokens = 7}\nfederation = {hospitals = 3}\n"
        "model = {name = 'text-gru', sizes = {embedding = 64, hidden = 16}}\n"
        "[training]\nrounds = 1\nbatch_rate = 1.0\nlearning_rate = 0.01\nrecords = 2\n"
    )

    def weights(size: float) -> np.ndarray:
        model = build_model(study)
        with torch.no_grad():
            model.encoder.weight[1] = 0.0
            model.recurrent.bias_ih_l0.zero_()
            model.recurrent.bias_hh_l0.zero_()
            model.output.weight.copy_(size * torch.tensor([[1.0], [-1.0]]).expand(2, 16))
            model.output.bias.zero_()
        return flatten(model)

    x = np.random.default_rng(0).integers(1, 50, (patients, 7), dtype=np.int32)
    x[:, 0] = 1
    x[-1] = 1
    return study, weights, of_patients(x, np.full(2 * patients, 7))


def of_opposites(x: np.ndarray) -> Dataset:
    """Of every patient two equal records with opposite labels."""
    data = of_patients(x, None)
    return replace(data, y=np.tile([0, 1], len(x)))


def of_patients(x: np.ndarray, lengths: np.ndarray | None) -> Dataset:
    """Two equal records of each; labels differ between those of the last one."""
    count = len(x)
    y = np.repeat(np.arange(count) % 2, 2)
    y[-2:] = 0, 1
    names = np.repeat([f"p{i:03}" for i in range(count)], 2)
    return Dataset(names, x.repeat(2, axis=0), y, np.full(2 * count, TRAIN, np.uint8), lengths)


STUDIES = {"table": a_table, "text": a_text}


def moved_by_the_last(name: str, size: float) -> float:
    study, weights, data = STUDIES[name](80)
    start = weights(size)
    sums = [gradient_sum(study, start, some, EVERYONE) for some in (data, data.take(np.arange(len(data) - 2)))]
    return float(np.linalg.norm(sums[0] - sums[1]))


@pytest.mark.parametrize("size", [1.0, 1e4, 1e7, 1e9])
@pytest.mark.parametrize("name", STUDIES)
def test_a_patient_with_opposite_labels_moves_a_hospitals_sum_by_at_most_the_clip(name: str, size: float) -> None:
    assert moved_by_the_last(name, size) <= ALLOWED


@pytest.mark.parametrize("name", STUDIES)
def test_a_hospitals_sum_in_single_precision_would_be_moved_further(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_single(monkeypatch)
    assert moved_by_the_last(name, 1e9) > ALLOWED


def draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws with a patient and without; all patients are in one part, however many."""
    monkeypatch.setattr(SecureSource, "uniform", lambda _, count: np.zeros(count))


def moved_by_each(size: float, counts: range, equal: bool) -> list[float]:
    """How far the last of so many patients moves the sum, when the terms of every patient cancel."""
    study, weights, data = a_table(counts[-1])
    x = data.x[::2]
    data = of_opposites(np.tile(x[:1], (len(x), 1)) if equal else x)
    sums = [gradient_sum(study, weights(size), data.take(np.arange(2 * count)), EVERYONE) for count in counts]
    return [float(np.linalg.norm(b - a)) for a, b in pairwise(sums)]


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("counts", [range(1, 5), range(45, 49), range(191, 195)])
def test_where_all_cancel_no_number_of_patients_changes_what_the_others_contribute(
    counts: range, equal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_alike(monkeypatch)
    assert max(moved_by_each(1e9, counts, equal)) <= ALLOWED


def test_it_would_be_noticed_if_the_number_of_patients_decided_how_gradients_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As products in single precision up to 46 patients, otherwise not at all."""

    def by_number(parameter: Tensor, inputs: Tensor, outputs: Tensor) -> Entry:
        if len(inputs) * parameter.numel() > 1 << 24:
            return Outer(parameter, inputs, outputs)
        return PerRecord(parameter, outputs.mT @ inputs)

    draw_alike(monkeypatch)
    monkeypatch.setattr(entries, "matrix_entry", by_number)
    monkeypatch.setattr(Summed, "squared_norms", lambda bias: squares(bias.made.gradients))
    assert max(moved_by_each(1e9, range(45, 49), True)) > 10.0


def test_the_studies_are_those_whose_terms_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for kind in (Outer, Rows):
        monkeypatch.setattr(kind, "added", lambda self, *given, was=kind.added: seen.append(self) or was(self, *given))
    for name in STUDIES:
        moved_by_the_last(name, 1.0)
    assert {(type(entry), (entry.inputs if isinstance(entry, Outer) else entry.ids).shape[1]) for entry in seen} >= {
        (Outer, 2),
        (Rows, 14),
    }
