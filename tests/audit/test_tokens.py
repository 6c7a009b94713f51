"""Tokens are read off an embedding's gradient exactly, and not at all under noise."""

import numpy as np
import pytest
import torch
from torch import nn

from fedmodels.audit.tokens import Recovery, by_gradient, recovery
from fedmodels.errors import UsageError

VOCABULARY = 200
TEXTS = torch.tensor([[3, 17, 3, 50], [99, 4, 17, 8]])
PRESENT = {3, 17, 50, 99, 4, 8}


def rows() -> np.ndarray:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 1)
    head(embedding(TEXTS).mean(1)).sum().backward()
    assert embedding.weight.grad is not None
    return embedding.weight.grad.numpy()


def test_rows_with_a_gradient_are_the_tokens_of_all_texts() -> None:
    found = by_gradient(rows())
    assert set(found) == PRESENT
    assert found[:2] == [3, 17]  # both occur twice
    assert recovery(found, PRESENT) == Recovery(6, 1.0)


def test_noise_hides_the_tokens() -> None:
    """The negative control: noise as large as the whole gradient in every coordinate leaves guessing."""
    clean = rows()
    noisy = clean + np.linalg.norm(clean) * np.random.default_rng(0).standard_normal(clean.shape)
    assert recovery(by_gradient(noisy), PRESENT).share < 0.4


def test_only_as_many_guesses_count_as_there_were_tokens() -> None:
    assert recovery([9, 1, 2], {1, 2}) == Recovery(2, 0.5)
    assert recovery([1], {1, 2}) == Recovery(2, 0.5)
    with pytest.raises(UsageError, match="no tokens"):
        recovery([1], set())
