"""Which words of a text an update shows: the rows of the embedding that got a gradient.

An embedding's row gets a gradient only if its token was in a text of the batch (Melis et al., S&P 2019). Without noise
the rows that are not zero are therefore the words of all patients in the sum, whatever their number and wherever they
are treated; clipping scales rows and hides none.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmodels.errors import UsageError


@dataclass(frozen=True)
class Recovery:
    """present: different tokens in the batch; share: of them that were found among as many guesses."""

    present: int
    share: float


def by_gradient(rows: npt.NDArray[np.floating]) -> list[int]:
    """The tokens whose rows [vocabulary, width] are not all zero, longest gradient first; equal lengths by token."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    order = np.argsort(-lengths, kind="stable")
    return [int(token) for token in order if lengths[token] > 0.0]


def recovery(guesses: list[int], present: Collection[int]) -> Recovery:
    """How many of the tokens that were there are among the first guesses, as many guesses as there were tokens.

    The attacker is thus told how many there are, which they would otherwise have to guess from the lengths.
    """
    tokens = set(present)
    if not tokens:
        raise UsageError("there are no tokens to look for")
    return Recovery(len(tokens), len(tokens.intersection(guesses[: len(tokens)])) / len(tokens))
