"""Several records of a patient in a step: averaged before the clip, so that a patient counts once."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from federations import DISTRIBUTED, tiny_study

from client import training
from client.training import gradient_sum, train_plain
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.data.features import feature_count
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import clip_factors
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.dp.randomness import SecureSource
from fedmodels.dp.sampling import PoissonSampler, SeededSource
from fedmodels.errors import FileError
from fedmodels.models.batches import to_tensors
from fedmodels.models.losses import loss_fn
from fedmodels.models.registry import build_model, model_with
from fedmodels.models.weights import flatten
from fedmodels.study import Study, parse_study
from fedmodels.study_input import ImageInput, TextInput

COUNTS = (1, 2, 3, 6, 1, 2)  # records of each patient; 6 rows are a whole number of turns of every one
EVERYONE = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)


def table(*settings: str) -> Study:
    return tiny_study("training.batch_rate=1.0", "training.learning_rate=0.01", *settings)


def a_study(kind: str, records: int, *lines: str) -> Study:
    """Of texts with lengths, or of images."""
    inputs = {
        "text-gru": "modality = 'text', vocabulary = 50, max_tokens = 7",
        "cnn": "modality = 'image', height = 16, width = 16",
    }
    sizes = {"text-gru": "embedding = 4, hidden = 5", "cnn": "channels = [4]"}
    return parse_study(
        f"study = {{name = 's', task = 'binary', labels = ['a', 'b']}}\ninput = {{{inputs[kind]}}}\n"
        f"model = {{name = '{kind}', sizes = {{{sizes[kind]}}}}}\nprivacy = {{mode = 'none'}}\n"
        f"federation = {{hospitals = 3}}\n[training]\nrounds = 1\nbatch_rate = 1.0\nlearning_rate = 0.01\n"
        f"gradient_norm = 0.0\nrecords = {records}\n" + "\n".join(lines)
    )


def data_of(study: Study, counts: tuple[int, ...] = COUNTS) -> Dataset:
    """Labels differ within a patient."""
    draw, n = np.random.default_rng(0), sum(counts)
    names = np.repeat([f"p{i}" for i in range(len(counts))], counts)
    lengths = None
    if isinstance(study.input, TextInput):
        x, lengths = draw.integers(1, 50, (n, 7), dtype=np.int32), draw.integers(1, 8, n)
        x[np.arange(7) >= lengths[:, None]] = 0
    elif isinstance(study.input, ImageInput):
        x = draw.integers(0, 256, (n, 1, 16, 16), dtype=np.uint8)
    else:
        x = draw.normal(size=(n, feature_count(study.input))).astype(np.float32)
    order = draw.permutation(n)  # a patient's records are not beside each other
    whole = Dataset(names, x, np.arange(n) % 2, np.full(n, TRAIN, np.uint8), lengths)
    return whole.take(order)


# --- the draw ------------------------------------------------------------------------------------------------------


def drawn(count: int, times: int, key: int = 0) -> tuple[Dataset, np.ndarray]:
    """[times, patients, count] rows of every patient."""
    data = data_of(table())
    sampler, source = PoissonSampler(data.patients, 1.0), SecureSource(bytes([key]) * 32)
    rows = [sampler.several(sampler.draw(source), count, source) for _ in range(times)]
    return data, np.array(rows).reshape(times, len(COUNTS), count)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7, 64])
def test_records_are_of_one_patient_each_differ_as_far_as_they_go_and_repeat_in_turn(count: int) -> None:
    data, every = drawn(count, 30)
    for patient, has in enumerate(COUNTS):
        for rows in every[:, patient]:
            assert set(data.patients[rows]) == {f"p{patient}"}
            times = np.unique(rows, return_counts=True)[1]
            assert len(times) == min(count, has)
            assert times.max() - times.min() <= 1


def test_every_record_has_the_same_part_whether_some_are_left_out_or_repeated() -> None:
    _, every = drawn(4, 4000)
    for patient, has in enumerate(COUNTS):
        shares = np.unique(every[:, patient], return_counts=True)[1] / (4000 * 4)
        assert len(shares) == has
        assert shares == pytest.approx(np.full(has, 1 / has), rel=0.05)


def test_one_record_is_what_was_drawn_and_draws_nothing_more() -> None:
    sampler = PoissonSampler(data_of(table()).patients, 0.5)
    one, other = SeededSource(1), SeededSource(1)
    assert np.array_equal(sampler.several(sampler.draw(one), 1, one), sampler.draw(other))
    assert one.uniform(1) == other.uniform(1)
    assert len(sampler.several(np.zeros(0, np.int64), 3, one)) == 0


def test_a_patient_takes_part_as_often_as_before() -> None:
    data = data_of(table())
    sampler, source = PoissonSampler(data.patients, 0.2), SecureSource(bytes(32))
    taken = np.zeros(len(COUNTS))
    for _ in range(5000):
        rows = sampler.several(sampler.draw(source), 3, source)
        taken += [np.sum(data.patients[rows] == f"p{i}") / 3 for i in range(len(COUNTS))]
    assert taken / 5000 == pytest.approx([0.2] * len(COUNTS), abs=0.02)


# --- average, one clip ---------------------------------------------------------------------------------------------


def alone(study: Study, start: np.ndarray, data: Dataset) -> torch.Tensor:
    """[n, D] float64 gradient of every record, one backward pass each."""
    model = model_with(study, start).double().train()
    x, lengths = to_tensors(data, study.input)
    x = x.double() if x.is_floating_point() else x
    found = []
    for i in range(len(data)):
        model.zero_grad()
        y = model(x[i : i + 1], None if lengths is None else lengths[i : i + 1])
        loss_fn((), "sum", 0.0)(y, torch.from_numpy(data.y[i : i + 1])).backward()
        ordered = sorted(model.named_parameters())
        found.append(torch.cat([p.grad.flatten() for _, p in ordered]))
    return torch.stack(found)


def averages(study: Study, start: np.ndarray, data: Dataset) -> torch.Tensor:
    """[patients, D]"""
    each = alone(study, start, data)
    return torch.stack([each[torch.from_numpy(data.patients == f"p{i}")].mean(0) for i in range(len(COUNTS))])


STUDIES: dict[str, Callable[[], Study]] = {
    "table": lambda: table("training.records=6"),
    "text": lambda: a_study("text-gru", 6),
    "image": lambda: a_study("cnn", 6),
}


@pytest.mark.parametrize("chunk", [256, 4])
@pytest.mark.parametrize("name", STUDIES)
def test_a_patients_records_are_averaged_and_clipped_once(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six rows for each patient, who has 1, 2, 3 or 6 records: all of them with the same weight."""
    monkeypatch.setattr(training, "MOST_IN_SINGLE", chunk)
    study = STUDIES[name]()
    start, data = flatten(build_model(study)), data_of(study)
    means = averages(study, start, data)
    norms = means.norm(dim=1)
    clip = float(norms.median())
    expected = (clip_factors(norms, clip)[:, None] * means).sum(0).numpy()
    found = gradient_sum(study, start, data, replace(EVERYONE, clip=clip))
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    one = gradient_sum(replace_records(study, 1), start, data, replace(EVERYONE, clip=clip))
    assert np.linalg.norm(one - expected) > 0.01 * np.linalg.norm(expected)  # or the comparison would see nothing


def replace_records(study: Study, records: int) -> Study:
    return msgspec.structs.replace(study, training=msgspec.structs.replace(study.training, records=records))


def test_copies_of_images_multiply_with_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three copies of each of six records: where copies are alike, the same as six records."""
    both = a_study("cnn", 6, "augment = ['flip']", "augmentations = 3")
    assert both.training.copies == 18
    start, data = flatten(build_model(both)), data_of(both)
    expected = gradient_sum(a_study("cnn", 6), start, data, EVERYONE)
    monkeypatch.setattr(training, "augmented", lambda x, training: x.repeat_interleave(training.augmentations, 0))
    assert np.linalg.norm(gradient_sum(both, start, data, EVERYONE) - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("records", [2, 3, 5])
def test_removing_a_patient_moves_the_sum_by_at_most_the_clip(records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All records of one patient a million times too large. The control: clipped one by one, they move it by more."""
    study = table(f"training.records={records}")
    start, data = flatten(build_model(study)), data_of(study, (1, 1, 4))
    extreme = data.patients == "p2"
    x = np.where(extreme[:, None], 1e6 * np.abs(data.x), data.x).astype(np.float32)
    without = data.take(np.flatnonzero(~extreme))

    def moved() -> float:
        sums = (replace(data, x=x, y=np.where(extreme, label, data.y)) for label in (0, 1))
        rest = gradient_sum(study, start, without, EVERYONE)
        return max(float(np.linalg.norm(gradient_sum(study, start, one, EVERYONE) - rest)) for one in sums)

    assert 0.99 < moved() <= 1.0 + 1e-6
    monkeypatch.setattr(training, "prepare", lambda model, copies: prepare(model))
    assert moved() > 1.5


def test_plain_training_takes_the_mean_over_a_patients_records() -> None:
    """Without clips, from every patient six rows: the mean over patients of the mean over their records."""
    study = table("training.records=6", "training.local_steps=1", "training.gradient_norm=0.0", "privacy.mode=none")
    start, data = flatten(build_model(study)), data_of(study)
    first, again = (train_plain(study, start, data, (1,)) for _ in range(2))
    assert np.array_equal(first.delta, again.delta)
    expected = -0.01 * averages(study, start, data).mean(0).numpy()
    assert np.linalg.norm(first.delta - expected) <= 1e-4 * np.linalg.norm(expected)


# --- the study -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [(), DISTRIBUTED])
def test_the_accounting_is_that_of_one_record(settings: tuple[str, ...]) -> None:
    assert plan_for(tiny_study(*settings, "training.records=5")) == plan_for(tiny_study(*settings))


def test_a_study_says_how_many_and_its_hash_tells() -> None:
    assert tiny_study().training.records == 1
    assert tiny_study("training.records=1").digest == tiny_study().digest != tiny_study("training.records=2").digest
    for count in (0, -1, 65):
        with pytest.raises(FileError, match="records"):
            tiny_study(f"training.records={count}")
