"""One deployment for all tests that leave it as they found it: a link and three hospitals."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Deployment, wait_until


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")) as deployment:
        deployment.start_link()
        for name in ("a", "b", "c"):
            deployment.node(name)
        wait_until(lambda: len(deployment.online()) == 3, 60)
        yield deployment
        assert deployment.strangers() == ""


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose link is up, to be broken."""
    with Deployment(tmp_path) as deployment:
        deployment.start_link()
        yield deployment
        assert deployment.strangers() == ""
