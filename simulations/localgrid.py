"""A Flower `Grid` in one process: every message crosses the same serialisation as on a wire, and nothing else does.

Hospitals work one after the other, so a time-out must have room for all of them: see `Exchange`.

This is one of the few files that may use Flower's private names (see tests/test_walls.py).
"""

import itertools
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

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
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="localgrid")
        self._pending: dict[str, Future[Message | None]] = {}
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Wait for the message in work and drop the others."""
        self._executor.shutdown(cancel_futures=True)

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
            self._pending[identifier] = self._executor.submit(self._deliver, _serialise(message), time.monotonic())
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        done = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        replies = [self._pending.pop(identifier).result() for identifier in done]
        return [reply for reply in replies if reply is not None]

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
