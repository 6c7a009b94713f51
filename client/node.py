"""The hospital's node: one process that takes the coordinator's messages one at a time to the installed ClientApp.

It speaks Flower 1.41's Fleet API over TLS to the coordinator of the invitation and nobody else, with the node's own
key. It never fetches the bundle of a run, let alone imports one: what runs next to patient data is the package that
the hospital installed. A reply leaves only after `may_leave` said that the hospital's own log lists these very bytes,
and is built anew from them, so that nothing else can leave beside them.

Whatever happens to the connection, the node says so once and tries again; only its own people stop it.

This is one of the few files that may use Flower's private names (see tests/test_walls.py); tests/deployment checks
each of them against the installed version.
"""

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2 as fleet
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.logger import FLOWER_LOGGER, console_handler
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.app import register
from client.nodefiles import NodeFiles, alone, load_key
from client.troubles import explain, trust, unlogged

_HEARTBEAT_SECONDS = 30  # Flower takes a node for lost after twice this
_BACKOFF_SECONDS = (0.5, 10.0)
_IDLE_SHARE, _IDLE_SECONDS_MAX = 0.02, 2.0  # of the time without work: a node may be that much late
_REMEMBERED = 1000  # messages, to answer none of them twice


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """How a node runs.

    address: host:port of the coordinator; ca: the PEM of the CA that its certificate must come from; node_key: file of
    the private key (OpenSSH, P-384); site: the site directory; poll: seconds between two questions for work, while
    there is some; on_event: gets a line for people; may_leave: whether exactly this reply (its body, and the raw bytes
    of the vector beside it, if any) may leave the hospital.
    """

    address: str
    ca: str
    node_key: Path
    site: Path
    may_leave: Callable[[bytes, bytes | None], bool]
    on_event: Callable[[str], None]
    poll: float = 0.2


def run_node(options: NodeOptions, stop: threading.Event) -> None:
    """Work until `stop` is set; then finish the message at hand, say goodbye and return.

    Raises a `UsageError` where the site directory has a node already, its key is unusable or the CA is none. A
    connection that fails is no error: `on_event` is told each new reason once, and the node tries again.
    """
    FLOWER_LOGGER.removeHandler(console_handler)
    with alone(options.site), _Node(options, stop) as node:
        node.run()


class _Clock:
    """How far this clock is ahead of the coordinator's, by the date of its answers (which cuts off the second)."""

    ahead = 0.0

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        response = call_next(context)
        with suppress(KeyError, ValueError):
            self.ahead = time.time() - parsedate_to_datetime(response.headers["date"]).timestamp()
        return response


class _Node:
    """The connection and the message at hand, which outlives a connection that is lost."""

    def __init__(self, options: NodeOptions, stop: threading.Event) -> None:
        self._options, self._stop = options, stop
        key = load_key(options.node_key)
        self._public_key, self._clock = public_key_to_bytes(key.public_key()), _Clock()
        self._client = FleetHttpClient(
            f"https://{options.address}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key()), self._clock],
            verify=trust(options.ca),
        )
        self._client._client.follow_redirects = False  # the coordinator must not choose whom this machine talks to
        self._app = register(ClientApp(), on_unlogged=self._unlogged)
        self._state = NodeFiles(options.site)
        self._node: Node | None = None
        self._told: set[str] = set()
        self._has_line = True  # whether the reply at hand can have one in the log of what left
        self._idle_since = time.monotonic()
        self._request: tuple[Message, list[str]] | None = None
        self._reply: Message | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __enter__(self) -> "_Node":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # The connection

    def run(self) -> None:
        """Connect, work, and connect again, until told to stop and nothing is at hand."""
        self._recall()
        delay, longest = _BACKOFF_SECONDS
        while not self._stop.is_set():
            try:
                with self._connected():
                    delay = _BACKOFF_SECONDS[0]
                    while not self._stop.is_set() or self._reply is not None:
                        self._step()
            except (httpx.HTTPError, OSError, ValueError) as error:
                self._tell(explain(error, self._options.address, self._clock.ahead))
                self._stop.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - spreads nodes, protects nothing
                delay = min(2 * delay, longest)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Online from here on, and offline afterwards where the coordinator can still be told."""
        self._node = self._activate()
        self._told.clear()
        self._tell(f"{self._options.address}: connected as node {self._node.node_id}")
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(self._node, done), name="node-heartbeat", daemon=True)
        heart.start()
        try:
            yield
            self._client.DeactivateNode(fleet.DeactivateNodeRequest(node_id=self._node.node_id))
        finally:
            done.set()

    def _activate(self) -> Node:
        """Flower activates no node that it takes for online, so one that was killed would have to wait for a minute.

        A heartbeat for the id remembered in this very directory makes it online at once. A copy of the directory does
        not get that far: it is refused as long as the original runs.
        """
        known = self._state.node_id()
        if known is not None:
            try:
                if self._heartbeat(Node(node_id=known)):
                    return Node(node_id=known)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.UNAUTHORIZED:
                    raise
        request = fleet.ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=_HEARTBEAT_SECONDS)
        node_id = self._client.ActivateNode(request).node_id
        self._state.remember(node_id)
        return Node(node_id=node_id)

    def _heartbeat(self, node: Node) -> bool:
        request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=_HEARTBEAT_SECONDS)
        return bool(self._client.SendNodeHeartbeat(request).success)

    def _beat(self, node: Node, done: threading.Event) -> None:
        """Beat until `done`. A connection that fails is met, and told, where the work is done."""
        wait = 0.7 * _HEARTBEAT_SECONDS
        while not done.wait(wait):
            try:
                self._heartbeat(node)
                wait = 0.7 * _HEARTBEAT_SECONDS
            except (httpx.HTTPError, ValueError):
                wait = 2.0

    def _tell(self, text: str) -> None:
        """Tell people, but what they were told since the last connection."""
        if text not in self._told:
            self._told.add(text)
            self._options.on_event(text)

    def _unlogged(self, error: Exception) -> None:
        """The reply at hand got no line; an older one of the same bytes, which a refusal can have, is not its own."""
        self._has_line = False
        self._tell(unlogged(error))

    # The message at hand

    def _step(self) -> None:
        """One thing. Where it fails, the same is done again once there is a connection."""
        if self._reply is not None:
            self._send(self._reply)
        elif self._request is not None:
            self._work(*self._request)
        elif not self._pull():
            idle = time.monotonic() - self._idle_since
            self._stop.wait(min(max(self._options.poll, _IDLE_SHARE * idle), _IDLE_SECONDS_MAX))

    def _pull(self) -> bool:
        answer = self._client.PullMessages(fleet.PullMessagesRequest(node=self._node))
        for stub, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            if stub.metadata.message_id not in self._seen:
                self._request = message_from_proto(stub), [each.object_id for each in iterate_object_tree(tree)]
        return bool(answer.messages_list)

    def _work(self, stub: Message, objects: list[str]) -> None:
        """Fetch a request's objects, have it answered, and keep the answer for sending."""
        try:
            contents = self._fetch(stub, objects)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.FORBIDDEN:
                raise
            contents = None  # the run is over
        if contents is None:
            self._request = None
            self._options.on_event("a request was dropped: it was withdrawn, or too old by the time it was here")
            return
        self._state.take(message_to_proto(stub).SerializeToString())
        self._request = None
        self._remember(stub)
        self._reply = self._answer(stub, contents)

    def _fetch(self, stub: Message, objects: list[str]) -> dict[str, bytes] | None:
        """The contents of a request's objects; None where one is gone, or it is too late to act on them."""
        contents: dict[str, bytes] = {}
        for identifier in objects:
            request = PullObjectRequest(node=self._node, run_id=stub.metadata.run_id, object_id=identifier)
            wait = 0.02
            while not (answer := self._client.PullObject(request)).object_available:
                if not answer.object_found or self._stop.wait(wait) or self._is_late(stub):
                    return None
                wait = min(2 * wait, 0.5)
            contents[identifier] = answer.object_content
        return None if self._is_late(stub) else contents

    def _answer(self, stub: Message, contents: dict[str, bytes]) -> Message:
        run_id, node_id = stub.metadata.run_id, stub.metadata.dst_node_id
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, node_id
        context = Context(
            run_id=run_id, node_id=node_id, node_config={"site": str(self._options.site)}, state=RecordDict(),
            run_config={},
        )  # fmt: skip
        self._has_line = True
        try:
            body, vector = _parts(self._app(message=_inflate(stub.metadata.message_id, contents), context=context))
            allowed = self._has_line and self._options.may_leave(body, None if vector is None else vector.tobytes())
        except Exception as error:  # noqa: BLE001 - whatever it is, its text may quote data and must not leave
            self._options.on_event(f"a request could not be answered ({type(error).__name__}): see errors.log")
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ""), reply_to=stub)
        if not allowed:
            self._options.on_event("a reply was held back: the log of what left this hospital does not list it")
            return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, ""), reply_to=stub)
        content = RecordDict({"reply": ConfigRecord({"body": body})})
        if vector is not None:
            content["vector"] = ArrayRecord({"vector": Array(vector)})
        return Message(content, reply_to=stub)

    def _send(self, reply: Message) -> None:
        """Send a reply, however often it takes; given up where it came too late or the run is over."""
        if not self._is_late(reply):
            try:
                if not self._push(reply):
                    self._stop.wait(self._options.poll)
                    return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.FORBIDDEN:
                    raise
        self._reply = None
        self._confirm(reply)
        self._state.done()
        self._idle_since = time.monotonic()

    def _confirm(self, reply: Message) -> None:
        """Let the coordinator forget the request early. It forgets it with the run in any case."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=reply.metadata.run_id, message_object_id=reply.metadata.reply_to_message_id
        )
        with suppress(httpx.HTTPError):
            self._client.ConfirmMessageReceived(request)

    def _push(self, reply: Message) -> bool:
        """Whether the whole reply arrived. What arrived before a connection was lost is not sent again."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            request = fleet.PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
            )
            answer = self._client.PushMessages(request)
            for identifier in answer.objects_to_push:
                push = PushObjectRequest(
                    node=self._node, run_id=reply.metadata.run_id, session_id=answer.session_id,
                    object_id=identifier, object_content=objects[identifier].deflate(),
                )  # fmt: skip
                if not self._client.PushObject(push).stored:
                    return False
        return True

    def _recall(self) -> None:
        """Answer what was at hand when the last process died with an error, so that nobody waits for it."""
        taken = self._state.taken()
        if taken is not None:
            lost = message_from_proto(ProtoMessage.FromString(taken))
            self._remember(lost)
            self._reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, ""), reply_to=lost)

    def _remember(self, message: Message) -> None:
        self._seen[message.metadata.message_id] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def _is_late(self, message: Message) -> bool:
        """Whether nobody waits for this any more, by the coordinator's clock."""
        return time.time() - self._clock.ahead > message.metadata.created_at + message.metadata.ttl


def _inflate(message_id: str, contents: dict[str, bytes]) -> Message:
    message = inflate_object_from_contents(message_id, contents)
    if not isinstance(message, Message):
        raise TypeError("what was sent is no message")
    message.metadata.__dict__["_message_id"] = message_id
    return message


def _parts(reply: Message) -> tuple[bytes, npt.NDArray[np.uint32] | None]:
    """Body and vector of a reply of `client.app`, which has nothing else."""
    body = reply.content.config_records["reply"]["body"]
    if not isinstance(body, bytes):
        raise TypeError("the body of a reply is not bytes")
    arrays = reply.content.array_records.get("vector")
    return body, None if arrays is None else np.ascontiguousarray(arrays["vector"].numpy(), np.uint32)
