"""Tests are of the CPU, also beside a GPU, unless they or whoever starts them choose a device."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("FEDMODELS_DEVICE", "cpu")


class TestsOfOneFile(LoadScopeScheduling):
    """What a worker of `make test` gets at a time: the tests of a file, which share its fixtures.

    Those of deployments start processes of their own, with time limits: all of them go to one worker, so that they
    never run beside each other. (pytest-xdist's own groups by mark do nothing with pytest 9.)
    """

    __test__ = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/deployment" if file.startswith("tests/deployment/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TestsOfOneFile:
    return TestsOfOneFile(config, log)
