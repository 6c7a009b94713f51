"""Errors cross process boundaries whole: workers raise them, and people read them elsewhere."""

import copy
import pickle

import pytest

from client.ledger import LedgerError
from fedmodels.errors import DataError, FedmodelsError, Refused, RoundAborted, UsageError, WrongShares

ERRORS = [
    UsageError("there is no such thing", where="--option", fix="use another"),
    DataError("no such file"),
    LedgerError("broken", where="row 3"),
    Refused("budget", "too much", where="policy.toml", fix="wait"),
    WrongShares(("hospital-a",), "nothing opens", where="step B"),
    RoundAborted(("hospital-a", "hospital-b"), fix="try again"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_in_another_process(error: FedmodelsError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
