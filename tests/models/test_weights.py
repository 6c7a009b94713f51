"""Weights as a vector: the order is that of the names, and a vector that does not fit changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from fedmodels.errors import RunError
from fedmodels.models.weights import flatten, unflatten


def a_module() -> nn.Module:
    model = nn.Module()
    model.b, model.a = nn.Linear(2, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for value, p in enumerate((model.a.bias, model.a.weight, model.b.bias, model.b.weight)):
            p.fill_(value)
    return model


def test_the_vector_is_in_the_order_of_the_names() -> None:
    vector = flatten(a_module())
    assert vector.dtype == np.float32
    assert vector.tolist() == [0.0, 1.0, 2.0, 3.0, 3.0]


def test_a_vector_goes_back_to_where_it_came_from() -> None:
    model, vector = a_module(), np.array([5.0, 6.0, 7.0, 8.0, 9.0])
    unflatten(model, vector)
    assert model.b.weight.tolist() == [[8.0, 9.0]]
    assert model.a.bias.tolist() == [5.0]
    assert flatten(model).tolist() == vector.tolist()


def test_neither_side_shares_memory_with_the_vector() -> None:
    model = a_module()
    vector = flatten(model)
    vector += 1
    assert flatten(model)[0] == 0.0
    unflatten(model, vector)
    vector += 1
    assert flatten(model)[0] == 1.0


@pytest.mark.filterwarnings("error")
def test_a_read_only_vector_from_a_message_can_be_used() -> None:
    unflatten(a_module(), np.frombuffer(np.arange(5, dtype=np.float32).tobytes(), dtype=np.float32))


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(4), r"\(4,\) do not fit a model of 5"),
        (np.zeros((5, 1)), "do not fit"),
        (np.array([0.0, 0.0, 0.0, 0.0, np.nan]), "not all finite"),
        (np.array([9.0, 0.0, 0.0, 0.0, 1e39]), "not all finite"),
    ],
)
def test_a_vector_that_does_not_fit_is_refused_and_changes_nothing(vector: np.ndarray, message: str) -> None:
    model = a_module()
    with pytest.raises(RunError, match=message):
        unflatten(model, vector)
    assert flatten(model).tolist() == [0.0, 1.0, 2.0, 3.0, 3.0]
