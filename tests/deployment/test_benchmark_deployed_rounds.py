"""`fedmodels bench deployment` measures real rounds of real processes."""

import pytest

from simulations.benchmarks import deployed_rounds

pytestmark = pytest.mark.deployment


def test_a_round_takes_longer_than_its_training() -> None:
    row = deployed_rounds.measure("retry", 1, 2)
    assert row.megabytes == pytest.approx(1.0, abs=0.05)
    assert 0.0 < row.training < row.seconds
    assert row.beyond == row.seconds - row.training
