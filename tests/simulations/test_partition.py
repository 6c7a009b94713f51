"""Dividing pooled patients: whole patients, all of them, once; skew as asked."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmodels.data.dataset import Dataset
from fedmodels.errors import UsageError
from simulations.federation import declared_size
from simulations.partition import Partition, divide


def pool(patients: int, records: int = 2) -> Dataset:
    names = np.repeat([f"p{i:04d}" for i in range(patients)], records)
    y = np.repeat(np.arange(patients) % 2, records).astype(np.int64)
    split = np.repeat((np.arange(patients) % 5 == 0).astype(np.uint8), records)
    return Dataset(names, np.zeros((len(names), 1), np.float32), y, split)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.sampled_from(["iid", "dirichlet:0.5", "dirichlet:100"]), st.integers(0, 5))
def test_every_patient_goes_to_exactly_one_hospital(hospitals: int, text: str, seed: int) -> None:
    parts = divide(pool(400), hospitals, Partition.parse(text), seed)
    assert len(parts) == hospitals
    assert sorted(p for part in parts for p in part) == sorted(set(pool(400).patients.tolist()))


def test_iid_parts_are_alike_and_a_small_dirichlet_parameter_makes_them_differ() -> None:
    data = pool(1000)
    label = dict(zip(data.patients.tolist(), data.y.tolist(), strict=True))

    def shares(text: str) -> list[float]:
        return [float(np.mean([label[p] for p in part])) for part in divide(data, 4, Partition.parse(text), 1)]

    assert np.ptp(shares("iid")) < 0.02
    assert np.ptp(shares("dirichlet:0.3")) > 0.2


def test_the_same_seed_gives_the_same_division_and_another_seed_another() -> None:
    one, two, other = (divide(pool(100), 3, Partition(), seed) for seed in (1, 1, 2))
    assert one == two != other


@pytest.mark.parametrize("text", ["", "random", "dirichlet", "dirichlet:0", "dirichlet:-1", "dirichlet:x"])
def test_an_unknown_partition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="unknown partition"):
        Partition.parse(text)


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        divide(pool(10), 4, Partition(), 0)


@pytest.mark.parametrize(("patients", "declared"), [(0, 1), (1, 1), (99, 99), (199, 200), (1234, 1200)])
def test_a_declared_size_is_rounded_to_two_digits(patients: int, declared: int) -> None:
    assert declared_size(patients) == declared
