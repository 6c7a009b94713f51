"""A node that cannot reach its coordinator, or should not: it says why, once for each reason, and goes on trying."""

import errno
import socket
import ssl
import time
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from harness import Authority, Deployment, Process, free_port

from client.troubles import explain
from fedmodels import wire
from server.exchange import NODE_FAILED, Exchange

pytestmark = pytest.mark.deployment
RUN = bytes(16)


def told(process: Process, reason: str) -> None:
    """It said so once, and is still trying after its back-off."""
    process.wait_for(reason, 60)
    time.sleep(1.5)
    assert process.text().count(reason) == 1
    assert process.alive
    assert "Traceback" not in process.text()


def test_each_reason_is_told_once_and_does_not_end_the_node(fresh: Deployment) -> None:
    nobody = fresh.node("nobody", address=f"127.0.0.1:{free_port()}")
    wrong_ca = fresh.node("wrong-ca", ca=Authority("another").pem)
    unknown = fresh.node("unknown", register=False)
    wrong_name = fresh.node("wrong-name", address=f"localhost:{fresh.config.public_port}")
    told(nobody, "nobody answers there")
    told(wrong_ca, "not from the CA of the invitation")
    told(unknown, "the coordinator does not know this node's key")
    told(wrong_name, "is for another name")
    fresh.link.register((fresh.folder / "unknown" / "node.pub").read_bytes(), "unknown")
    unknown.wait_for("connected as node", 30)


def test_an_expired_certificate(fresh: Deployment) -> None:
    fresh.processes[0].stop()
    certificate, key = fresh.authority.issue(fresh.folder, left=timedelta(seconds=-1))
    fresh.config = replace(fresh.config, certificate=certificate, key=key)
    fresh.start_link()
    told(fresh.node("a", register=False), "certificate has expired")


def test_what_the_log_does_not_list_does_not_leave(fresh: Deployment) -> None:
    node = fresh.node("a", may_leave="no")
    node.wait_for("connected as node", 60)
    with fresh.link.open_run("study") as grid:
        exchange = Exchange(grid)
        (answer,) = exchange.ask(dict.fromkeys(exchange.nodes(), wire.PresenceRequest(RUN, bytes(16))), 30)
    assert answer.problem == NODE_FAILED
    assert "a reply was held back" in node.text()


def refused(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://x")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ahead", "words"),
    [
        (refused(401), 0.0, "does not know this node's key"),
        (refused(401), 4.5, "this clock is 4 s ahead of"),
        (refused(401), -400.0, "this clock is 400 s behind"),
        (refused(401), -200.0, "does not know this node's key"),
        (refused(412), 0.0, "still counts a node with it as connected"),
        (refused(404), 0.0, "no link for hospitals"),
        (refused(503), 0.0, "answered 503"),
        (httpx.ConnectTimeout(""), 0.0, "no answer in time"),
        (caused(httpx.ConnectError(""), socket.gaierror()), 0.0, "no machine of that name"),
        (httpx.ReadError(""), 0.0, "the connection was lost (ReadError)"),
        (caused(httpx.ConnectError(""), ssl.SSLError("EOF")), 0.0, "nobody answers there"),
        (OSError(errno.ENOSPC, "No space left on device"), 0.0, "cannot write the site directory: No space left"),
        (ValueError("Invalid protobuf response payload"), 0.0, "speaks another protocol"),
    ],
)
def test_reasons_in_plain_words(error: Exception, ahead: float, words: str) -> None:
    text = explain(error, "host:1", ahead)
    assert text.startswith("host:1: ")
    assert words in text
    assert "\n  -> " in text
