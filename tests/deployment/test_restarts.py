"""Processes are killed as a power cut would, and started again."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from harness import Deployment, Process, wait_until

from fedmodels import wire
from server.exchange import NODE_FAILED, Answer, Exchange

pytestmark = pytest.mark.deployment
RUN = bytes(16)
MODEL = np.arange(300_000, dtype=np.float32)
PRESENCE = wire.PresenceRequest(RUN, bytes(16))


@pytest.fixture
def node(fresh: Deployment) -> Process:
    process = fresh.node("a")
    process.wait_for("connected as node", 60)
    return process


def slow(seconds: float) -> wire.ContributeRequest:
    return wire.ContributeRequest(RUN, "train", 1, str(seconds).encode())


def ask(exchange: Exchange, request: wire.Request, timeout: float = 60) -> Answer:
    (answer,) = exchange.ask(dict.fromkeys(exchange.nodes(), request), timeout, MODEL)
    return answer


def seen(deployment: Deployment) -> list[str]:
    path = deployment.folder / "a" / "seen"
    return path.read_text().split() if path.exists() else []


def test_a_killed_node_is_back_at_once_and_what_it_was_doing_is_answered_with_an_error(
    fresh: Deployment, node: Process
) -> None:
    with fresh.link.open_run("study") as grid, ThreadPoolExecutor(1) as pool:
        exchange = Exchange(grid)
        asked = pool.submit(ask, exchange, wire.UnmaskRequest(RUN, b""))  # which kills the node
        wait_until(lambda: not node.alive, 20)
        start = time.monotonic()
        fresh.start_node("a").wait_for("connected as node", 60, times=2)
        back = time.monotonic() - start
        assert asked.result(10).problem == NODE_FAILED
        assert back < 30, "Flower would have it wait for up to 60 s"
        assert ask(exchange, PRESENCE).reply == wire.PresenceReply("a", bytes(64))
    assert not (fresh.folder / "a" / "node.message").exists()


def test_a_copy_of_a_site_directory_cannot_take_over_from_the_original(fresh: Deployment, node: Process) -> None:
    copy = fresh.folder / "copy"
    copy.mkdir()
    for path in (fresh.folder / "a").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    thief = fresh.start_node("copy")
    thief.wait_for("stop any other node with this key", 60)
    assert "connected as node" not in thief.text()


def test_one_node_per_site_directory(fresh: Deployment, node: Process) -> None:
    second = fresh.start_node("a")
    wait_until(lambda: not second.alive, 60)
    assert "a node is running in this folder" in second.text()
    assert node.alive


def test_sigterm_finishes_the_message_at_hand_and_says_goodbye(fresh: Deployment, node: Process) -> None:
    with fresh.link.open_run("study") as grid, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, Exchange(grid), slow(2))
        wait_until(lambda: "ContributeRequest" in seen(fresh), 20)
        assert node.stop() == 0
        array = asked.result(10).array
        assert array is not None
        assert (array == MODEL.view(np.uint32) + np.uint32(1)).all()
    assert fresh.online() == {}


@pytest.mark.parametrize("down", ["before the reply", "longer than the heartbeats last"])
def test_a_run_survives_a_link_that_is_killed_and_started_again(fresh: Deployment, node: Process, down: str) -> None:
    link = fresh.processes[0]
    with fresh.link.open_run("study") as grid, ThreadPoolExecutor(1) as pool:
        exchange = Exchange(grid)
        asked = pool.submit(ask, exchange, slow(2))
        wait_until(lambda: "ContributeRequest" in seen(fresh), 20)
        link.kill()
        if down == "before the reply":
            node.wait_for("nobody answers there", 20)
        else:
            pass_an_hour(fresh.config.database)
        fresh.start_link()
        array = asked.result(30).array
        assert array is not None
        assert (array == MODEL.view(np.uint32) + np.uint32(1)).all()
        assert ask(exchange, PRESENCE).reply == wire.PresenceReply("a", bytes(64))
    assert seen(fresh) == ["ContributeRequest", "PresenceRequest"]


def pass_an_hour(database: Path) -> None:
    """As if nobody's heartbeat had arrived for an hour."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE node SET online_until = online_until - 3600")
        rows = connection.execute("UPDATE task SET active_until = '2020-01-01 00:00:00+00:00' WHERE token IS NOT NULL")
        assert rows.rowcount == 1


def test_a_run_whose_process_died_does_not_stand_in_the_way(fresh: Deployment, node: Process) -> None:
    with fresh.link.open_run("dead") as grid:
        grid.end = lambda outcome: None  # as if the process were gone before it could report
    with fresh.link.open_run("alive") as grid:
        assert ask(Exchange(grid), PRESENCE).reply == wire.PresenceReply("a", bytes(64))


def test_the_outcome_of_a_run_is_reported_without_a_reason(fresh: Deployment) -> None:
    with pytest.raises(ValueError, match="patient"), fresh.link.open_run("failing"):
        raise ValueError("patient 4711")
    with fresh.link.open_run("completing"):
        pass
    with closing(sqlite3.connect(fresh.config.database)) as connection:
        rows = connection.execute("SELECT sub_status, details FROM task ORDER BY pending_at").fetchall()
    assert rows == [("failed", ""), ("completed", "")]
