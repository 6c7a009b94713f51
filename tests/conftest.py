"""Tests are of the CPU, also beside a GPU, unless they or whoever starts them choose a device."""

import os

import pytest

os.environ.setdefault("FEDMODELS_DEVICE", "cpu")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers (`make test`): the tests of a file share their fixtures, and those that start processes of
    their own, with time limits, wait for each other."""
    for item in items:
        alone = item.get_closest_marker("deployment")
        item.add_marker(pytest.mark.xdist_group("deployment" if alone else str(item.path)))
