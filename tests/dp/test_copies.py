"""Augmentation multiplicity: the copies of a record are averaged before the clip, so that they count once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_clipping import LAYERS, RECURRENT, Alone, trainable
from torch import Tensor, nn

from client import training
from client.training import gradient_sum, train_plain
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.dp.canaries import Single
from fedmodels.dp.clipping import entries
from fedmodels.dp.clipping.memory import physical_batch
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.gradients import clip_factors
from fedmodels.dp.plan import Plan
from fedmodels.errors import FileError, PrivacyError
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.study import Study, parse_study

COPIES = 3
MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    f"{kind.__name__} {options}": (lambda kind=kind, options=options: kind(3, 5, batch_first=True, **options), (4, 3))
    for kind in (nn.LSTM, nn.GRU)
    for options in RECURRENT
}
EVERY = LAYERS | MORE


def compare(model: nn.Module, x: Tensor, tolerance: float) -> None:
    """Against one backward pass per copy, averaged by record."""
    copies = []
    for i in range(len(x)):
        model.zero_grad()
        model(x[i : i + 1]).sum().backward()
        copies.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trainable(model)})
    means = [
        {n: torch.stack([c[n] for c in copies[i : i + COPIES]]).mean(0) for n, _ in trainable(model)}
        for i in range(0, len(x), COPIES)
    ]
    norms = torch.stack([torch.cat([g.flatten() for g in record.values()]).norm() for record in means]).double()
    prepared = prepare(model, COPIES)
    (prepared.model(x).sum() / COPIES).backward()
    torch.testing.assert_close(prepared.book.norms(), norms, rtol=tolerance, atol=0.0)
    factors = clip_factors(norms, float(norms.median()))
    prepared.book.add_clipped(factors)
    for name, p in trainable(prepared.model):
        total = sum(f * record[name] for f, record in zip(factors, means, strict=True))
        torch.testing.assert_close(prepared.book.sums[p].to(total), total, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", EVERY)
def test_copies_are_averaged_as_by_one_backward_pass_each(name: str, dtype: torch.dtype, tolerance: float) -> None:
    make, shape = EVERY[name]
    torch.manual_seed(4)
    compare(Alone(make()).to(dtype), torch.randn(5 * COPIES, *shape).to(dtype) + 0.5, tolerance)


def test_copies_of_words_are_averaged_also_where_they_share_some() -> None:
    compare(Alone(nn.Embedding(6, 3)).double(), torch.randint(0, 6, (4 * COPIES, 5)), 1e-10)


@pytest.mark.parametrize("name", ["convolution", "linear, two positions of a wide layer", "linear"])
def test_the_other_ways_of_measuring_agree_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(entries, "_MADE_BYTES", 100)
    make, shape = LAYERS[name]
    compare(Alone(make()).double(), torch.randn(6 * COPIES, *shape, dtype=torch.float64), 1e-10)


def test_a_copy_that_overflows_leaves_its_record_out_and_no_other() -> None:
    x = torch.randn(3 * COPIES, 5)
    x[COPIES + 1] = float("inf")
    prepared = prepare(Alone(nn.Linear(5, 3)), COPIES)
    prepared.model(x).sum().backward()
    factors = clip_factors(prepared.book.norms(), 1.0)
    assert (factors == 0).tolist() == [False, True, False]
    prepared.book.add_clipped(factors)
    assert all(bool(total.isfinite().all()) for total in prepared.book.sums.values())


def test_batches_that_are_not_made_of_whole_records_are_refused() -> None:
    with pytest.raises(PrivacyError, match="a batch of 7 is not made of records with 3 copies each"):
        prepare(nn.Linear(2, 1), COPIES).model(torch.randn(7, 2))
    single = Single(torch.zeros(4), torch.tensor([1]), torch.tensor([1.0]))
    with pytest.raises(PrivacyError, match="a canary has one gradient"):
        single.grouped(COPIES)


def test_the_physical_batch_counts_copies() -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.Flatten())
    one = physical_batch(prepare(model), torch.zeros(1, 1, 130, 130))
    eight = physical_batch(prepare(model, 8), torch.zeros(8, 1, 130, 130))
    assert one / 10 < eight < one / 6


def a_study(*lines: str) -> Study:
    """Weights in the loss that are a million times too large, so that every gradient has to be clipped."""
    return parse_study(
        "study = {name = 's', task = 'binary', labels = ['a', 'b']}\nmodel = {name = 'cnn', sizes = {channels = [4]}}\n"
        "input = {modality = 'image', height = 16, width = 16}\nprivacy = {mode = 'none'}\n"
        "federation = {hospitals = 3}\n[training]\nrounds = 1\nbatch_rate = 1.0\nlearning_rate = 0.01\n"
        + "\n".join(lines)
    )


AUGMENTED = ("augment = ['flip', 'shift', 'brightness']", "augmentations = 4")
EXTREME = a_study(*AUGMENTED, "class_weights = [1e6, 1e6]")
EVERYONE = Plan(sampling_rate=1.0, clip=1.0, noise_multiplier=1e-9, steps_per_release=1, releases=1, delta=1e-5)


def images(count: int) -> Dataset:
    x = np.random.default_rng(0).integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    names = np.array([f"p{i}" for i in range(count)])
    return Dataset(names, x, np.arange(count) % 2, np.full(count, TRAIN, np.uint8))


def test_a_record_and_all_its_copies_move_a_sum_by_at_most_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: clipped one by one, four copies move it by nearly four times as much."""
    start = flatten(build_model(EXTREME))

    def moved() -> float:
        return float(np.linalg.norm(gradient_sum(EXTREME, start, images(1), EVERYONE)))

    assert 0.99 < moved() <= 1.0
    monkeypatch.setattr(training, "prepare", lambda model, copies: prepare(model))
    assert moved() > 2.0


def test_private_steps_work_with_copies_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    start = flatten(build_model(EXTREME))
    monkeypatch.setattr(training, "MOST_IN_SINGLE", 2)
    assert 1.0 < np.linalg.norm(gradient_sum(EXTREME, start, images(5), EVERYONE)) <= 5.0


def test_plain_training_repeats_with_its_seed_and_takes_the_mean_over_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    study, data = a_study(*AUGMENTED, "gradient_norm = 0.0"), images(6)
    start = flatten(build_model(study))
    first, again, other = (train_plain(study, start, data, (seed,)) for seed in (1, 1, 2))
    assert np.array_equal(first.delta, again.delta)
    assert not np.array_equal(first.delta, other.delta)
    plain = train_plain(a_study("gradient_norm = 0.0"), start, data, (1,))
    monkeypatch.setattr(training, "augmented", lambda x, training: x.repeat_interleave(training.augmentations, 0))
    alike = train_plain(study, start, data, (1,))
    assert alike.loss == pytest.approx(plain.loss, rel=1e-5)
    assert np.allclose(alike.delta, plain.delta, atol=1e-6)
    assert not np.allclose(first.delta, plain.delta, atol=1e-4)


def test_what_cannot_be_augmented_is_refused_in_the_study() -> None:
    with pytest.raises(FileError, match=r"several `training\.augmentations` need `training\.augment`"):
        a_study("augmentations = 2")
    text = "\n".join(("[training]", "rounds = 1", "augment = ['flip']", "[input]", "modality = 'text'"))
    start = "study = {name = 's', task = 'binary', labels = ['a', 'b']}\nmodel = {name = 'text-gru'}\n"
    with pytest.raises(FileError, match=r"`training\.augment` changes images"):
        parse_study(start + "privacy = {mode = 'none'}\nfederation = {hospitals = 3}\n" + text)
