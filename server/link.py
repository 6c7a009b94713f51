"""The coordinator's end of Flower 1.41: a SuperLink whose public port serves the Fleet API alone, and its client.

`serve` runs in a process of its own and keeps everything in flight in one SQLite file, so it may be killed and started
again under a running study. `Link` is what other processes of the coordinator use: they meet the SuperLink on the
loopback interface, know it by its very certificate, and prove themselves with the shared secret.

Flower's bundles are a formality here: a run names its components in a bundle that nobody installs. Hospitals run the
package they installed, and the coordinator's own process takes the place of Flower's ServerApp process.

This is one of the few files that may use Flower's private names (see tests/test_walls.py); tests/deployment checks
each of them against the installed version.
"""

import fcntl
import hashlib
import io
import os
import sqlite3
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import httpx
import tomli_w
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.common.serde import message_from_proto, run_from_proto
from flwr.proto import control_pb2 as control
from flwr.proto import runtime_pb2 as runtime
from flwr.proto.fab_pb2 import Fab  # pylint: disable=no-name-in-module
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError, inflate_object_from_contents
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.logger import FLOWER_LOGGER, configure_superlink_log_file, console_handler
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClient,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app

from fedmodels.errors import RunError, UsageError
from server import gate
from server.linkconfig import (
    LOOPBACK,
    LinkConfig,
    check_certificate,
    control_token,
    failures,
    listen,
    openssh,
    pem,
    pinned,
    read_secret,
    shows_another_certificate,
)

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_GRACE_SECONDS = 60  # Flower gives up a node or a run after this long without a heartbeat
_HEARTBEAT_SECONDS = 10.0
_PATIENCE_SECONDS = 300.0  # how long a run waits for a SuperLink that is being started again
_POLL_SECONDS = 0.05  # between two questions for replies: each costs the SuperLink about 5 ms
_HELD_REPLIES = 4  # half-arrived vectors kept in memory at a time
C = TypeVar("C", bound=ProtobufClient)


@dataclass(frozen=True)
class LinkNode:
    """A hospital's node as the SuperLink knows it; `public_key` in OpenSSH's format, without a comment."""

    node_id: int
    public_key: bytes
    name: str
    online: bool


# The SuperLink


def serve(config: LinkConfig, ready: Callable[[], None] = lambda: None) -> None:
    """Run the SuperLink until SIGTERM or SIGINT; `ready` is called once both ports answer. Only in a main thread.

    Raises a `UsageError` for files that do not fit together and for ports that are taken.
    """
    secret = read_secret(config)
    check_certificate(config)
    FLOWER_LOGGER.removeHandler(console_handler)
    if config.log is not None:
        configure_superlink_log_file(filename=str(config.log), interval_hours=24, backup_count=7)
    with suppress(FileExistsError):
        os.close(os.open(config.database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    config.database.chmod(0o600)  # it holds masked vectors in flight and the tokens of runs
    with listen(LOOPBACK, config.internal_port) as inside, listen(config.public_host, config.public_port) as outside:
        app = create_app(_superlink(config, secret), SuperLinkLifespan)
        _forgive_downtime(config.database)
        inner, outer = gate.internal(app, control_token(secret)), gate.public(app)
        gate.serve({inner: inside, outer: outside}, config.certificate, config.key, ready)


def _superlink(config: LinkConfig, secret: bytes) -> SuperLinkLifespanConfig:
    return SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host=LOOPBACK, port=config.internal_port, insecure=False,
        certificates=None, superexec_auth_secret=secret, authn_plugin=NoOpControlAuthnPlugin(), event_log_plugin=None,
        fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None, enable_supernode_auth=True,
        fleet_api_type="grpc-rere", fleet_api_address=None, simulation=False, ssl_ca_certfile=str(config.ca),
        ssl_certfile=str(config.certificate), ssl_keyfile=str(config.key), database=str(config.database),
        isolation="process", runtime_dependency_install=False,
    )  # fmt: skip


def _forgive_downtime(database: Path) -> None:
    """Heartbeats that could not arrive while no SuperLink ran are not held against nodes and runs."""
    until = time.time() + _GRACE_SECONDS
    text = datetime.fromtimestamp(until, UTC).isoformat(sep=" ")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE node SET online_until = ? WHERE status = 'online'", (until,))
        connection.execute("UPDATE task SET active_until = ? WHERE token IS NOT NULL AND finished_at IS NULL", (text,))


# Its client


class _Bearer:
    """Shows the Control API's token."""

    def __init__(self, token: str) -> None:
        self._value = f"Bearer {token}"

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["authorization"] = self._value
        return call_next(context)


class Link:
    """A link that runs on this machine, seen from another process of the coordinator.

    Whatever a person can have got wrong (no link running, another secret, another certificate) is a `FedmodelsError`.
    """

    def __init__(self, config: LinkConfig) -> None:
        self._config, self._secret = config, read_secret(config)

    def register(self, node_key_pem: bytes, name: str) -> int:
        """Let in the node with this public key (PEM or OpenSSH); its node id. The same key again: the same id."""
        key = pem(node_key_pem, name)
        with self._control() as client:
            known = [node.node_id for node in _nodes(client) if node.public_key == key]
            if known:
                return int(known[0])
            try:
                return int(client.RegisterNode(control.RegisterNodeRequest(public_key=key, name=name)).node_id)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                    raise
                raise UsageError(
                    "this node key was removed before and cannot come back",
                    where=name,
                    fix="the hospital makes a new node key and sends its card again",
                ) from None

    def unregister(self, node_id: int) -> None:
        """Let a node in no more; one that is not let in is ignored. Its key can never come back."""
        with self._control() as client:
            if node_id in {node.node_id for node in _nodes(client)}:
                client.UnregisterNode(control.UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[LinkNode]:
        """The nodes that are let in."""
        with self._control() as client:
            return [
                LinkNode(node.node_id, openssh(node.public_key), node.name, node.status == "online")
                for node in _nodes(client)
            ]

    @contextmanager
    def open_run(self, name: str) -> Iterator[Grid]:
        """A run of Flower's, over whose grid messages go out; `name` says in Flower's log which one it is.

        One at a time: raises `UsageError` where another process has one open. Runs whose process died are stopped.
        Calls on the grid survive a SuperLink that is killed and started again within five minutes; after that, and
        where the SuperLink has given the run up, they raise `RunError`.
        """
        with _alone(self._config.database):
            with self._control() as client:
                for run in client.ListRuns(control.ListRunsRequest(limit=1000)).run_dict.values():
                    if run.status.status != Status.FINISHED:
                        client.StopRun(control.StopRunRequest(run_id=run.run_id))
                bundle = _bundle(name)
                fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
                run_id = client.StartRun(control.StartRunRequest(fab=fab)).run_id
            grid = _LinkGrid(self._config, self._acquire(run_id))
            outcome = SubStatus.FAILED
            try:
                grid.begin()
                yield grid
                outcome = SubStatus.COMPLETED
            finally:
                grid.end(outcome)

    @contextmanager
    def _control(self) -> Iterator[ControlHttpClient]:
        bearer = _Bearer(control_token(self._secret))
        with failures(self._config), _client(ControlHttpClient, self._config, bearer) as client:
            yield client

    def _acquire(self, run_id: int) -> str:
        """The token of the run's one task."""
        proof = SuperExecAuthHttpInterceptor(master_secret=self._secret, protected_methods={_ACQUIRE})
        with failures(self._config), _client(RuntimeHttpClient, self._config, proof) as client:
            response = client.AcquireTask(runtime.AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        if not response.token or response.task.run_id != run_id:
            raise RunError("the link has another run waiting", where=self._config.address, fix="try again")
        return str(response.token)


@dataclass
class _Arriving:
    """A reply that the SuperLink announced: its objects, and the contents of those that were fetched."""

    stub: Message
    objects: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)


class _LinkGrid(HttpGrid):
    """Flower's grid with a patience of its own, replies taken as they arrive, and a heartbeat."""

    def __init__(self, config: LinkConfig, token: str) -> None:
        super().__init__(config.address, token=token)
        self._config = config
        self._client = _client(
            RuntimeHttpClient, config, RuntimeTokenHttpInterceptor(token), retry=_retry(_PATIENCE_SECONDS)
        )
        self._arriving: dict[str, _Arriving] = {}
        self._asked = 0.0
        self._done = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="link-heartbeat", daemon=True)

    def begin(self) -> None:
        """Take the run's input, which makes it a running one, and keep it alive from now on."""
        with failures(self._config):
            task = self._runtime_client.PullTaskInput(runtime.PullTaskInputRequest())
        self.set_run(run_from_proto(task.run))
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        self._heart.start()

    def end(self, outcome: str) -> None:
        """Report the outcome, without a reason, and hang up. A SuperLink that is gone fails the run by itself."""
        self._done.set()
        token = RuntimeTokenHttpInterceptor(self._token)
        with suppress(httpx.HTTPError), _client(RuntimeHttpClient, self._config, token) as client:
            client.PushTaskOutput(runtime.PushTaskOutputRequest(sub_status=outcome, details=""))
        self.close()

    def get_nodes(self) -> Iterable[NodeInfo]:
        with failures(self._config):
            return super().get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push all messages; an object that arrived although its acknowledgement was lost is not sent again."""
        pushed = list(messages)
        with failures(self._config):
            while True:
                try:
                    return super().push_messages(pushed)
                except ObjectPushError:  # the SuperLink was started again meanwhile: ask it what it still lacks
                    continue

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """The replies that are complete by now, each as soon as it is, so that one whole vector at a time is in memory.

        A reply that is still being uploaded is fetched piece by piece, over several calls; up to `_HELD_REPLIES` such
        are in memory, too.
        """
        wanted = list(message_ids)
        time.sleep(max(0.0, self._asked + _POLL_SECONDS - time.monotonic()))
        self._asked = time.monotonic()
        with failures(self._config):
            self._announce([message_id for message_id in wanted if message_id not in self._arriving])
            for message_id in [each for each in wanted if each in self._arriving]:
                reply = self._fetch(self._arriving[message_id])
                if reply is not None:
                    del self._arriving[message_id]
                    yield reply
                del reply  # before the next one is fetched

    def _announce(self, message_ids: list[str]) -> None:
        if not message_ids:
            return
        answer = self._runtime_client.PullMessages(runtime.PullAppMessagesRequest(message_ids=message_ids))
        for stub, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            objects = [each.object_id for each in iterate_object_tree(tree)]
            self._arriving[stub.metadata.reply_to_message_id] = _Arriving(message_from_proto(stub), objects)

    def _fetch(self, reply: _Arriving) -> Message | None:
        """The reply once all its objects are here; an error in its place where one of them never will be."""
        run_id, metadata = self.run.run_id, reply.stub.metadata
        for identifier in reply.objects:
            if identifier in reply.contents:
                continue
            answer = self._runtime_client.PullObject(
                PullObjectRequest(node=self.node, run_id=run_id, object_id=identifier)
            )
            if not answer.object_found:
                return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, ""))
            if not answer.object_available:
                if sum(bool(each.contents) for each in self._arriving.values()) > _HELD_REPLIES:
                    reply.contents.clear()  # the SuperLink keeps them until they are confirmed
                return None
            reply.contents[identifier] = answer.object_content
        self._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=metadata.message_id)
        )
        message = inflate_object_from_contents(metadata.message_id, reply.contents)
        if not isinstance(message, Message):
            return make_message(metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, ""))
        message.metadata.__dict__["_message_id"] = metadata.message_id
        return message

    def _beat(self) -> None:
        """Tell the SuperLink that the run is alive. One that is gone or gave up is met by the next call anyway."""
        token = RuntimeTokenHttpInterceptor(self._token)
        with _client(RuntimeHttpClient, self._config, token) as client:
            while not self._done.wait(_HEARTBEAT_SECONDS):
                with suppress(httpx.HTTPError):
                    client.SendTaskHeartbeat(runtime.SendTaskHeartbeatRequest())


def _client(
    kind: type[C], config: LinkConfig, interceptor: ProtobufClientInterceptor, retry: RetryInvoker | None = None
) -> C:
    """A client that trusts the very certificate of this link and goes through no proxy."""
    context = pinned(config)
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    client = kind(f"https://{config.address}", interceptors=(version, interceptor), retry_invoker=retry)
    client._client.close()
    client._client = httpx.Client(verify=context, timeout=30.0, trust_env=False)
    return client


def _retry(seconds: float) -> RetryInvoker:
    """Retries while the SuperLink is away; Flower's own would raise SIGINT and take any TLS error for a final one."""
    return RetryInvoker(
        lambda: exponential(max_delay=2), (httpx.TransportError, httpx.HTTPStatusError), None, seconds,
        should_giveup=_is_final,
    )  # fmt: skip


def _is_final(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code < httpx.codes.INTERNAL_SERVER_ERROR
    return shows_another_certificate(error)


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    """Keep other processes from opening a run on the same link: the SuperLink hands out tasks in its own order."""
    with Path(f"{database}.run").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "a run is open on this link", where=str(database), fix="wait until it is done, or stop it"
            ) from None
        yield


def _nodes(client: ControlHttpClient) -> list[NodeInfo]:
    nodes = client.ListNodes(control.ListNodesRequest()).nodes_info
    return [node for node in nodes if node.status != NodeStatus.UNREGISTERED]


def _bundle(name: str) -> bytes:
    """The least that Flower takes for a bundle."""
    components = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    project = {
        "project": {"name": name, "version": "0"},
        "tool": {"flwr": {"app": {"publisher": "fedmodels", "components": components}}},
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("pyproject.toml", tomli_w.dumps(project))
    return archive.getvalue()
