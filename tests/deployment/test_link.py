"""The link from both sides: what hospitals and the coordinator exchange over it, and what strangers get."""

import http.client
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.proto import control_pb2 as control
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.runtime import RuntimeHttpClient
from harness import Authority, Deployment, free_port

from client.keys import make_node_key
from client.troubles import trust
from fedmodels import wire
from fedmodels.errors import FedmodelsError, FileError, RunError, UsageError
from server import gate
from server.exchange import NODE_FAILED, Answer, Exchange
from server.link import Link, serve

pytestmark = pytest.mark.deployment
RUN = bytes(16)
PRESENCE = wire.PresenceRequest(RUN, bytes(16))


def contribute(seconds: float = 0) -> wire.ContributeRequest:
    return wire.ContributeRequest(RUN, "train", 1, str(seconds).encode())


@pytest.fixture(scope="module")
def exchange(shared: Deployment) -> Iterator[Exchange]:
    with shared.link.open_run("study") as grid:
        yield Exchange(grid)


def ask(exchange: Exchange, request: wire.Request, model: np.ndarray | None = None) -> list[Answer]:
    return list(exchange.ask(dict.fromkeys(exchange.nodes(), request), 60, model))


# What is exchanged


@pytest.mark.parametrize("megabytes", [0.1, 40])
def test_a_model_goes_to_all_hospitals_and_their_vectors_come_back_unchanged(
    exchange: Exchange, megabytes: float
) -> None:
    model = np.random.default_rng(0).random(int(megabytes * 250_000), dtype=np.float32)
    answers = ask(exchange, contribute(), model)
    assert {answer.node for answer in answers} == set(exchange.nodes())
    for answer in answers:
        assert answer.array is not None
        assert (answer.array == model.view(np.uint32) + np.uint32(1)).all()


def test_a_node_id_is_that_of_the_hospital_that_registered_the_key(shared: Deployment, exchange: Exchange) -> None:
    names = {answer.node: answer.reply.hospital for answer in ask(exchange, PRESENCE)}
    assert names == {node: name for name, node in shared.online().items()}


def test_the_text_of_an_exception_stays_in_the_hospital(shared: Deployment, exchange: Exchange) -> None:
    answers = ask(exchange, wire.SetupRequest(RUN, bytes(32), bytes(32)))
    assert [answer.problem for answer in answers] == [NODE_FAILED] * 3
    everything = b"".join(path.read_bytes() for path in shared.folder.glob("link.sqlite*"))
    everything += (shared.folder / "flower.log").read_bytes()
    assert b"patient 4711" not in everything


def test_no_bundle_is_fetched(shared: Deployment, exchange: Exchange) -> None:
    ask(exchange, PRESENCE)
    log = (shared.folder / "flower.log").read_text()
    assert "[Fleet.PushMessages]" in log
    assert "[Fleet.GetFab]" not in log


# Who is let in


def test_the_same_key_again_is_the_same_node_and_a_removed_key_stays_out(shared: Deployment) -> None:
    _, public = make_node_key()
    link = shared.link
    node = link.register(public, "d")
    assert link.register(public, "d") == node
    assert [(each.name, each.public_key, each.online) for each in link.nodes() if each.node_id == node] == [
        ("d", public, False)
    ]
    link.unregister(node)
    link.unregister(node)
    assert node not in {each.node_id for each in link.nodes()}
    with pytest.raises(UsageError, match="cannot come back"):
        link.register(public, "d")


@pytest.mark.parametrize("key", [b"", b"ssh-ed25519 AAAA", b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"])
def test_what_is_no_node_key_is_refused(shared: Deployment, key: bytes) -> None:
    with pytest.raises(UsageError, match="no public node key"):
        shared.link.register(key, "e")


def test_a_second_run_is_refused_while_one_is_open(
    shared: Deployment,
    exchange: Exchange,  # which has it open
) -> None:
    with pytest.raises(UsageError, match="a run is open on this link"), shared.link.open_run("another"):
        pass


# Strangers


def client(kind: type[ProtobufClient], shared: Deployment, port: int, *more: object) -> ProtobufClient:
    """What a network peer has that knows the CA certificate alone."""
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    return kind(f"https://127.0.0.1:{port}", interceptors=(version, *more), verify=trust(shared.authority.pem))


def status(call: object, request: object) -> int:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        call(request)
    return caught.value.response.status_code


def test_a_peer_with_the_ca_certificate_alone_cannot_take_over_a_run(shared: Deployment) -> None:
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    guess = SuperExecAuthHttpInterceptor(
        master_secret=b"guess" * 8, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
    )
    outside, inside = shared.config.public_port, shared.config.internal_port
    assert status(client(RuntimeHttpClient, shared, outside).AcquireTask, request) == 404
    assert status(client(RuntimeHttpClient, shared, outside, guess).AcquireTask, request) == 404
    assert status(client(RuntimeHttpClient, shared, inside).AcquireTask, request) == 401
    assert status(client(RuntimeHttpClient, shared, inside, guess).AcquireTask, request) == 401


def test_control_is_not_on_the_public_port_and_asks_for_the_token_on_the_other(shared: Deployment) -> None:
    key = control.RegisterNodeRequest(public_key=make_node_key()[1])
    for port, expected in ((shared.config.public_port, 404), (shared.config.internal_port, 401)):
        stranger = client(ControlHttpClient, shared, port)
        assert status(stranger.RegisterNode, key) == expected
        assert status(stranger.StartRun, control.StartRunRequest()) == expected
        assert status(stranger.ListNodes, control.ListNodesRequest()) == expected


def test_another_secret_is_refused(shared: Deployment, tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_bytes(b"s" * 32)
    with pytest.raises(UsageError, match="another secret"):
        Link(replace(shared.config, secret=tmp_path / "secret")).nodes()


def connection(shared: Deployment) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        "127.0.0.1", shared.config.public_port, context=trust(shared.authority.pem), timeout=10
    )


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/v1/fleet", "/v1/runtime/get-nodes",
                                  "//v1/fleet/pull-messages", "/v1/fleet/../control/list-nodes"])  # fmt: skip
def test_the_public_port_knows_nothing_but_the_fleet_api(shared: Deployment, path: str) -> None:
    peer = connection(shared)
    peer.request("POST", path, b"", {"content-type": "application/protobuf"})
    assert peer.getresponse().status == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "a/b?", "a/v1/health#"])
def test_no_host_header_gets_around_the_nodes_signature(shared: Deployment, host: str) -> None:
    peer = connection(shared)
    peer.request("POST", "/v1/fleet/pull-messages", b"", {"content-type": "application/protobuf", "host": host})
    assert peer.getresponse().status == 401


def test_a_body_that_announces_too_much_is_not_read(shared: Deployment) -> None:
    peer = connection(shared)
    peer.putrequest("POST", "/v1/fleet/push-object")
    peer.putheader("content-length", str(gate.MAX_BODY + 1))
    peer.endheaders()
    assert peer.getresponse().status == 413


@pytest.mark.parametrize(("megabytes", "expected"), [(15, 400), (17, 413)])
def test_a_body_whose_length_is_not_announced_is_bounded_too(shared: Deployment, megabytes: int, expected: int) -> None:
    peer, megabyte = connection(shared), bytes(1 << 20)
    peer.putrequest("POST", "/v1/fleet/push-object")
    peer.putheader("content-type", "application/protobuf")
    peer.putheader("transfer-encoding", "chunked")
    peer.endheaders()
    for _ in range(megabytes):
        peer.send(b"100000\r\n" + megabyte + b"\r\n")
    peer.send(b"0\r\n\r\n")
    assert peer.getresponse().status == expected


# What a person gets wrong


def test_no_link_is_a_clear_error(shared: Deployment) -> None:
    with pytest.raises(RunError, match="no link answers"):
        Link(replace(shared.config, internal_port=free_port())).nodes()


def test_a_link_with_another_certificate_is_a_clear_error(shared: Deployment, tmp_path: Path) -> None:
    certificate, _ = Authority().issue(tmp_path)
    with pytest.raises(UsageError, match="another certificate"):
        Link(replace(shared.config, certificate=certificate)).nodes()


def test_a_port_in_use_is_a_clear_error(shared: Deployment) -> None:
    with pytest.raises(UsageError, match=f"127.0.0.1:{shared.config.internal_port}: cannot listen"):
        serve(shared.config)


@pytest.mark.parametrize("broken", ["ca", "key", "certificate", "secret", "open secret"])
def test_files_that_do_not_fit_together_are_named(shared: Deployment, tmp_path: Path, broken: str) -> None:
    other = Authority("another CA")
    (tmp_path / "ca.pem").write_text(other.pem)
    (tmp_path / "secret").write_bytes(b"short")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "open secret").write_bytes(bytes(32))
    (tmp_path / "open secret").chmod(0o640)
    changes = {
        "ca": {"ca": tmp_path / "ca.pem"}, "key": {"key": other.issue(tmp_path)[1]},
        "certificate": {"certificate": tmp_path / "absent.pem"}, "secret": {"secret": tmp_path / "secret"},
        "open secret": {"secret": tmp_path / "open secret"},
    }  # fmt: skip
    with pytest.raises(FileError) as caught:
        serve(replace(shared.config, **changes[broken]))
    assert isinstance(caught.value, FedmodelsError)
    assert caught.value.where
    assert caught.value.fix


def test_the_database_is_for_this_user_only(shared: Deployment) -> None:
    files = list(shared.folder.glob("link.sqlite*"))
    assert files
    assert {path.stat().st_mode & 0o077 for path in files if path.suffix != ".run"} == {0}
