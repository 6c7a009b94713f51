"""A Flower `Grid` in one process: every message crosses the same serialisation as on a wire, and nothing else does.

Hospitals work one after the other, in the thread that asks for their answers: torch's small parallel regions are
four times slower in a process in which two threads have used them. A time-out must have room for all of them: see
`Exchange`.

This is one of the few files that may use Flower's private names (see tests/test_walls.py).
"""

import itertools
import time
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage  # pylint: disable=no-name-in-module
from flwr.proto.node_pb2 import NodeInfo  # pylint: disable=no-name-in-module
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_FIRST_NODE = 2
_RUN = 1


class LocalGrid(Grid):
    """Runs one `ClientApp` for each of several virtual nodes, one message at a time, in the order they were pushed."""

    def __init__(self, client_app: ClientApp, node_configs: Iterable[Mapping[str, str]]) -> None:
        self._app = client_app
        self._run = Run.create_empty(run_id=_RUN)
        self._contexts = {
            node: Context(run_id=_RUN, node_id=node, node_config=dict(config), state=RecordDict(), run_config={})
            for node, config in enumerate(node_configs, _FIRST_NODE)
        }
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN, 1
        self._pending: dict[str, tuple[bytes, float]] = {}  # what was pushed when, and not delivered yet
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, status="online") for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            identifier = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = identifier
            self._pending[identifier] = _serialise(message), time.monotonic()
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that are there, after at most one more hospital has worked on one of them."""
        wanted = set(message_ids)
        while self._pending and not wanted & self._replies.keys():
            identifier, (body, pushed) = next(iter(self._pending.items()))
            del self._pending[identifier]
            if reply := self._deliver(body, pushed):
                self._replies[identifier] = reply
        return (self._replies.pop(identifier) for identifier in sorted(wanted & self._replies.keys()))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError("push and poll instead: see server/exchange.py")

    def _deliver(self, body: bytes, pushed: float) -> Message | None:
        message = _parse(body)
        if time.monotonic() - pushed > message.metadata.ttl:
            return None
        return _parse(_serialise(self._reply(message)))

    def _reply(self, message: Message) -> Message:
        try:
            return self._app(message=message, context=self._contexts[message.metadata.dst_node_id])
        except Exception:  # noqa: BLE001 - as on a real node: the coordinator learns that it failed, and nothing else
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ""), reply_to=message)


def _serialise(message: Message) -> bytes:
    body: bytes = message_to_proto(message).SerializeToString()
    return body


def _parse(body: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(body))
