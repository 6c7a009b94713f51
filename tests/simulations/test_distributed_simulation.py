"""A simulated run of mode `distributed` is the one that the accuracy benchmark trains without its messages."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from federations import DISTRIBUTED, run

from client.site import Site
from fedmodels.data.load import load
from fedmodels.dp.randomness import SecureSource
from fedmodels.models.artifact import load_model
from fedmodels.models.weights import flatten
from simulations.benchmarks.private_training import train_distributed


def number_sources(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """From now on random sources have consecutive keys instead of the operating system's."""
    real, keys = SecureSource.__init__, itertools.count(first)

    def keyed(self: SecureSource, key: bytes | None = None) -> None:
        real(self, key or next(keys).to_bytes(32, "big"))

    monkeypatch.setattr(SecureSource, "__init__", keyed)


def test_with_the_same_random_numbers_a_run_and_the_benchmark_train_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: grid, messages, masks and lattice change nothing. The control has other random numbers."""
    settings = ("training.momentum=0.5", "training.average=0.9", "training.rounds=4")
    with monkeypatch.context() as keyed:
        number_sources(keyed, 1)
        _, _, federation = run(tmp_path, *DISTRIBUTED, *settings)
    study = Site(federation.sites[0]).study
    parts = {path.name: load(path / "data.toml", study) for path in federation.sites}

    def benchmark(first: int) -> np.ndarray:
        with monkeypatch.context() as keyed:
            number_sources(keyed, first)
            return train_distributed(study, parts).astype(np.float32)

    published = flatten(load_model(tmp_path / "run")[0])
    assert (benchmark(1) == published).all()
    assert not (benchmark(2) == published).any()
