"""Training and prediction on every device there is, against the CPU. One device is pretended: see `pretend_device`."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from model_studies import INPUTS, a_study
from msgspec import structs
from pretend_device import PRETENDED, Elsewhere, pretended

from client import training
from client.training import gradient_sum, train_plain, train_private
from fedmodels.data.dataset import TRAIN, Dataset
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.clipping.prepare import prepare
from fedmodels.dp.plan import Plan
from fedmodels.dp.randomness import SecureSource
from fedmodels.models import batches, registry
from fedmodels.models.batches import predict
from fedmodels.models.cnn import Cnn, CnnSizes
from fedmodels.models.device import VARIABLE
from fedmodels.models.registry import build_model, model_with
from fedmodels.models.weights import flatten
from fedmodels.study import Study
from fedmodels.study_input import ImageInput
from simulations.benchmarks.steps import cases, contenders

T = TypeVar("T")
RECORDS, LABELS = 24, 3
DEVICES = [
    "cpu", "pretended",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]  # fmt: skip
every_device = pytest.mark.parametrize("name", DEVICES)
every_family = pytest.mark.parametrize("family", INPUTS)
STRANGERS = r"tensors of the CPU|not at the same device"  # the latter is torch's own
NORMALISED = {"cnn": "norm = 'group'", "mlp": "norm = 'layer'"}


def on(name: str, work: Callable[[], T]) -> T:
    """What `work` returns on a device; there in full float32, which torch's convolutions on CUDA else are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        if name != "pretended":
            patch.setenv(VARIABLE, name)
            return work()
        with pretended() as where:
            for module in (registry, cases, contenders):
                patch.setattr(module, "device", lambda: where)
            return work()


def study_of(family: str, **settings: object) -> Study:
    study = a_study(family, INPUTS[family], NORMALISED.get(family, ""), labels=LABELS)
    return structs.replace(study, training=structs.replace(study.training, batch_rate=1.0, **settings))


def records(family: str) -> Dataset:
    rng = np.random.default_rng(1)
    lengths = None
    if family == "cnn":
        x = rng.integers(0, 256, (RECORDS, 1, 28, 28)).astype(np.uint8)
    elif family == "mlp":
        x = rng.random((RECORDS, 6)).astype(np.float32)
    else:
        text = family.startswith("text")
        x = rng.integers(0, 50, (RECORDS, 7)) if text else rng.random((RECORDS, 6, 8)).astype(np.float32)
        lengths = rng.integers(1, 7, RECORDS)
    patients = np.array([f"p{i}" for i in range(RECORDS)])
    return Dataset(patients, x, rng.integers(0, LABELS, RECORDS), np.full(RECORDS, TRAIN, np.int8), lengths)


def start_of(study: Study) -> np.ndarray:
    return flatten(build_model(study))


def plan(noise: float = 0.0, clip: float = 0.5, rate: float = 1.0) -> Plan:
    return Plan(rate, clip, noise, 1, 1, 1e-5)


def far_apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference in units of the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


@every_device
@every_family
def test_clipped_sums_are_those_of_the_cpu(family: str, name: str) -> None:
    study, data = study_of(family), records(family)

    def work() -> np.ndarray:
        return gradient_sum(study, start_of(study), data, plan())

    expected = on("cpu", work)
    assert 0.1 < np.linalg.norm(expected) <= 0.5 * RECORDS
    assert far_apart(on(name, work), expected) < 1e-4


@every_device
@every_family
def test_a_private_step_is_that_of_the_cpu_but_for_the_noise(family: str, name: str) -> None:
    study, data = study_of(family, momentum=0.9, weight_decay=0.01), records(family)

    def work(noise: float = 0.0) -> np.ndarray:
        return train_private(study, start_of(study), data, plan(noise), RECORDS).delta

    expected, found = on("cpu", work), on(name, work)
    assert far_apart(found, expected) < 1e-4
    assert 10 * np.abs(on(name, lambda: work(1.0)) - found).max() > np.abs(expected).max()


@every_device
@every_family
def test_an_empty_batch_leaves_noise_of_the_plans_deviation(family: str, name: str) -> None:
    study, data = study_of(family, learning_rate=2.0), records(family)

    def work() -> np.ndarray:
        return train_private(study, start_of(study), data, plan(3.0, rate=1e-9), 10**10).delta  # divisor 10

    (one, other), expected = (on(name, work) for _ in range(2)), 2.0 * 3.0 * 0.5 / 10.0
    for moved in (one, other):
        assert abs(moved.mean()) < 5.0 * expected / moved.size**0.5
        assert moved.std() == pytest.approx(expected, rel=5.0 / (2 * moved.size) ** 0.5)
    assert abs(np.corrcoef(one, other)[0, 1]) < 5.0 / one.size**0.5


@every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_drawn_into_the_devices_memory(dtype: torch.dtype, name: str) -> None:
    def work() -> torch.Tensor:
        where = registry.device()
        target = torch.full((600, 1000), 4.0, dtype=dtype, device=where)
        SecureSource().add_normal(target, 3.0, 0.5)
        assert target.device.type == where.type
        return target.cpu()

    found = on(name, work)
    assert found.mean().item() == pytest.approx(2.0, abs=0.01)
    assert found.std().item() == pytest.approx(1.5, rel=0.005)
    assert found.unique().numel() > 0.9 * found.numel()


@every_device
@every_family
def test_plain_steps_are_those_of_the_cpu(family: str, name: str) -> None:
    settings = {"momentum": 0.9, "proximal": 0.1, "class_weights": (1.0, 2.0, 0.5), "focal_gamma": 1.0}
    images = {"augment": ("flip", "shift", "brightness"), "augmentations": 2} if family == "cnn" else {}
    study, data = study_of(family, local_steps=2, **settings, **images), records(family)

    def work() -> tuple[np.ndarray, float]:
        update = train_plain(study, start_of(study), data, (1, 2))
        return update.delta, update.loss

    expected, found = on("cpu", work), on(name, work)
    assert far_apart(found[0], expected[0]) < 1e-4
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


@every_device
def test_plain_steps_leave_the_generators_as_they_were(name: str) -> None:
    study, data = study_of("mlp"), records("mlp")
    study = structs.replace(study, model=structs.replace(study.model, sizes={"dropout": 0.5}))

    def work() -> None:
        gpu = torch.cuda.get_rng_state() if name == "cuda" else torch.zeros(0)
        before, first = torch.get_rng_state(), train_plain(study, start_of(study), data, (1,)).delta
        assert torch.equal(before, torch.get_rng_state())
        assert name != "cuda" or torch.equal(gpu, torch.cuda.get_rng_state())
        assert far_apart(train_plain(study, start_of(study), data, (1,)).delta, first) < 1e-5

    on(name, work)


@every_device
@every_family
def test_predictions_are_those_of_the_cpu(family: str, name: str) -> None:
    study, data = study_of(family), records(family)

    def work() -> np.ndarray:
        return predict(model_with(study, start_of(study)), data, study.input)

    assert np.abs(on(name, work) - on("cpu", work)).max() < 1e-5


@every_device
def test_canaries_are_where_the_model_is(name: str) -> None:
    study, data = study_of("mlp"), records("mlp")
    start = start_of(study)

    def work() -> np.ndarray:
        directions = np.random.default_rng(2).random((2, start.size)).astype(np.float32)
        names, lengths = np.array([f"canary{i}" for i in range(5)]), np.array([9.0, 0.1, 9.0], np.float32)
        canaries = Canaries(names, np.array([0, 2, 3]), lengths, directions, 4)
        total = gradient_sum(study, start, data, plan(), canaries)
        moved = train_private(study, start, data, plan(), 10, Canaries(names, np.arange(3), lengths, directions, 4))
        assert far_apart(moved.delta[start.size :], np.array([-0.005, -0.001, -0.005, 0.0])) < 1e-4
        return total

    expected = on("cpu", work)
    assert expected[start.size :] == pytest.approx([0.5, 0.0, 0.1, 0.5], abs=1e-4)
    assert far_apart(on(name, work), expected) < 1e-4


@every_device
@pytest.mark.parametrize("large", [False, True])
def test_group_norm_takes_images_with_channels_last(large: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmodels.dp.clipping.normalisation._LARGE", 0 if large else 1 << 40)

    def work() -> torch.Tensor:
        torch.manual_seed(0)
        model = Cnn(CnnSizes(channels=(4, 8)), ImageInput(height=8, width=8), 1).to(memory_format=torch.channels_last)
        x = torch.randn(5, 1, 8, 8).contiguous(memory_format=torch.channels_last)
        prepared = prepare(model.to(registry.device()))
        prepared.model(x.to(registry.device())).sum().backward()
        norms = prepared.book.norms()
        assert norms.device.type == registry.device().type
        return norms.cpu()

    torch.testing.assert_close(on(name, work), on("cpu", work), rtol=1e-4, atol=0.0)


@every_device
@pytest.mark.parametrize("contender", [contenders.STOCK, contenders.OURS], ids=lambda contender: contender.name)
@pytest.mark.parametrize("case", [case for case in cases.cases() if case.small], ids=lambda case: case.name)
def test_benchmarked_steps_run_where_they_are_measured(
    contender: contenders.Contender, case: cases.Case, name: str
) -> None:
    def work() -> None:
        step = contender.prepare(replace(case, batch=2))
        for _ in range(2):
            step()

    on(name, work)


@every_family
@pytest.mark.parametrize("way", ["private", "plain"])
def test_a_batch_that_was_left_on_the_cpu_would_be_noticed(
    family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, data, real = study_of(family), records(family), training._one_patient
    monkeypatch.setattr(training, "_one_patient", lambda study, data, _: real(study, data, PRETENDED))
    monkeypatch.setattr(training, "device_of", lambda _: torch.device("cpu"))

    def work() -> None:
        if way == "private":
            gradient_sum(study, start_of(study), data, plan())
        else:
            train_plain(study, start_of(study), data, (1,))

    with pytest.raises(RuntimeError, match=STRANGERS):
        on("pretended", work)


@every_family
def test_records_to_predict_that_were_left_on_the_cpu_would_be_noticed(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, data = study_of(family), records(family)
    monkeypatch.setattr(batches, "device_of", lambda _: torch.device("cpu"))
    with pytest.raises(RuntimeError, match=STRANGERS):
        on("pretended", lambda: predict(model_with(study, start_of(study)), data, study.input))


def test_results_that_were_left_on_the_device_would_be_noticed() -> None:
    with pretended() as where, pytest.raises(RuntimeError, match="numpy"):
        Elsewhere(torch.zeros(2)).numpy()
    with pretended() as where:
        assert torch.zeros(2, device=where).cpu().numpy().tolist() == [0.0, 0.0]
