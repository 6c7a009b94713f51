"""Which device is used, and what is said where it is not there."""

import pytest
import torch
from torch import nn

from fedmodels.errors import UsageError
from fedmodels.models.device import VARIABLE, device, device_of, image_format


@pytest.mark.parametrize("chosen", [None, ""])
@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_it_is_a_gpu_where_torch_has_one(
    chosen: str | None, there: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE) if chosen is None else monkeypatch.setenv(VARIABLE, chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device() == torch.device(expected)


@pytest.mark.parametrize("chosen", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_the_environment_chooses_another(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device() == torch.device(chosen)


@pytest.mark.parametrize(
    "chosen", ["gpu", "meta", "mps", "cuda:", "cuda:-1", "cuda:x", "CPU", "cpu:1", "cuda:01", "cuda:00", "cuda:1\n"]
)
def test_an_unknown_name_is_refused(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, chosen)
    with pytest.raises(UsageError, match="no device") as refused:
        device()
    assert (refused.value.where, refused.value.exit_code) == (VARIABLE, 2)


@pytest.mark.parametrize(("chosen", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_not_quietly_replaced(
    chosen: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError, match=f"finds {count} CUDA devices"):
        device()


def test_a_model_is_where_its_weights_are() -> None:
    assert device_of(nn.Linear(2, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_images_have_channels_last_on_the_cpu_alone() -> None:
    assert image_format(torch.device("cpu")) == torch.channels_last
    assert image_format(torch.device("cuda", 1)) == torch.contiguous_format
