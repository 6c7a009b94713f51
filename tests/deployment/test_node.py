"""The node alone, with a coordinator made up in memory: what it acts upon, what it sends, and what it refuses."""

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from harness import Authority

import client.node
from client.keys import make_node_key
from client.node import NodeOptions
from client.site import Site
from client.troubles import unlogged
from fedmodels import wire
from fedmodels.errors import FileError, UsageError

pytestmark = pytest.mark.deployment


class Coordinator:
    """Answers the calls of a node. `lose` is how many acknowledgements of objects get lost."""

    def __init__(self) -> None:
        self.inbox: list[Message] = []
        self.objects: dict[str, bytes] = {}
        self.arrived: dict[str, dict[str, bytes]] = {}
        self.replies: list[Message] = []
        self.lose, self.clock = 0, 0.0

    def ask(self, content: RecordDict, ttl: float = 60.0, age: float = 0.0) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 7, 1
        message = Message(content, 42, MessageType.TRAIN, ttl=ttl)
        message.metadata.created_at = time.time() - age
        message.metadata.__dict__["_message_id"] = message.object_id
        self.objects |= {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
        self.inbox.append(message)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 - Flower's name, as all below
        if not self.inbox:
            return SimpleNamespace(messages_list=[], message_object_trees=[])
        message = self.inbox.pop(0)
        stub = message_to_proto(remove_content_from_message(message))
        return SimpleNamespace(messages_list=[stub], message_object_trees=[get_object_tree(message)])

    def PullObject(self, request: Any) -> Any:  # noqa: N802
        content = self.objects.get(request.object_id)
        return SimpleNamespace(object_found=content is not None, object_available=bool(content), object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        pass

    def PushMessages(self, request: Any) -> Any:  # noqa: N802
        (stub,), (tree,) = request.messages_list, request.message_object_trees
        self.stub = message_from_proto(stub)
        here = self.arrived.setdefault(tree.object_id, {})
        missing = [item for item in nodes_of(tree) if item not in here]
        return SimpleNamespace(objects_to_push=missing, session_id=tree.object_id)

    def PushObject(self, request: Any) -> Any:  # noqa: N802
        here = self.arrived[request.session_id]
        here[request.object_id] = request.object_content
        if self.lose:
            self.lose -= 1
            raise httpx.ReadError("lost")
        return SimpleNamespace(stored=True)

    def close(self) -> None:
        pass

    def received(self) -> list[Message]:
        return [inflate_object_from_contents(root, dict(contents)) for root, contents in self.arrived.items()]


def nodes_of(tree: Any) -> list[str]:
    return [item for child in tree.children for item in nodes_of(child)] + [tree.object_id]


Handler = Callable[[Message, Context], Message]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    (tmp_path / "node.key").write_bytes(make_node_key()[0])

    def make(handler: Handler | None = None, may_leave: Callable[[bytes, bytes | None], bool] = lambda *_: True) -> Any:
        if handler:
            app = ClientApp()
            app.train()(handler)
            monkeypatch.setattr(client.node, "register", lambda *_, **__: app)
        events: list[str] = []
        options = NodeOptions(
            address="127.0.0.1:1", ca=Authority().pem, node_key=tmp_path / "node.key", site=tmp_path,
            may_leave=may_leave, on_event=events.append, poll=0.001,
        )  # fmt: skip
        node = client.node._Node(options, threading.Event())
        node._client, node._node, node.events = Coordinator(), client.node.Node(node_id=42), events
        return node

    return make


def steps(node: Any, count: int = 4) -> list[Message]:
    for _ in range(count):
        node._step()
    received: list[Message] = node._client.received()
    return received


def request() -> RecordDict:
    return RecordDict({"request": ConfigRecord({"body": b"?"})})


def reply(message: Message, context: Context, **more: Any) -> Message:
    vector = ArrayRecord({"vector": Array(np.arange(3, dtype=np.uint32))})
    return Message(RecordDict({"reply": ConfigRecord({"body": b"!"}), "vector": vector, **more}), reply_to=message)


def test_a_reply_is_asked_about_byte_by_byte_and_then_sent(make: Callable[..., Any]) -> None:
    asked = []
    node = make(reply, may_leave=lambda body, vector: asked.append((body, vector)) or True)
    node._client.ask(request())
    (received,) = steps(node)
    assert asked == [(b"!", np.arange(3, dtype=np.uint32).tobytes())]
    assert received.content["reply"]["body"] == b"!"
    assert (received.content["vector"]["vector"].numpy() == np.arange(3)).all()


def test_nothing_leaves_beside_what_was_asked_about(make: Callable[..., Any]) -> None:
    def generous(message: Message, context: Context) -> Message:
        answer = reply(message, context, extra=ConfigRecord({"data": b"patient 4711"}))
        answer.content["reply"]["more"] = b"patient 4711"
        answer.content["vector"]["more"] = Array(np.arange(5))
        return answer

    node = make(generous)
    node._client.ask(request())
    (received,) = steps(node)
    assert set(received.content) == {"reply", "vector"}
    assert set(received.content["reply"]) == {"body"}
    assert set(received.content["vector"]) == {"vector"}
    assert all(b"4711" not in each for contents in node._client.arrived.values() for each in contents.values())


@pytest.mark.parametrize("answer", [False, OSError("disk full")])
def test_what_may_not_leave_is_replaced_by_an_empty_error(make: Callable[..., Any], answer: bool | OSError) -> None:
    def may_leave(body: bytes, vector: bytes | None) -> bool:
        if isinstance(answer, OSError):
            raise answer
        return answer

    node = make(reply, may_leave)
    node._client.ask(request())
    (received,) = steps(node)
    assert received.has_error()
    assert not received.error.reason
    assert len(node.events) == 1


def test_a_message_that_cannot_be_noted_is_worked_on_once_it_can(make: Callable[..., Any]) -> None:
    node = make(reply)
    take = node._state.take

    def full(message: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    node._state.take = full
    node._client.ask(request())
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            steps(node)
    assert node._client.received() == []
    node._state.take = take
    (sent,) = steps(node)
    assert sent.content.config_records["reply"]["body"] == b"!"


@pytest.mark.parametrize("name", ["errors.log", "log.jsonl"])
def test_people_are_told_once_why_not_even_a_refusal_can_be_logged(
    make: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    node = make(may_leave=lambda *_: False)
    for _ in range(2):
        node._client.ask(request())
        steps(node)
    assert len(node._client.received()) == 2
    told, held_back, again = node.events
    assert told.startswith(f"{name} cannot be written, so nothing may leave: Is a directory\n  -> make room")
    assert "held back" in held_back
    assert held_back == again


@pytest.mark.parametrize("asked", ["the log", "somebody who lets everything pass"])
def test_a_refusal_without_a_line_of_its_own_is_held_back_though_the_newest_line_has_its_bytes(
    make: Callable[..., Any], tmp_path: Path, asked: str
) -> None:
    site = Site(tmp_path)
    failed = wire.encode(site.refuse(ValueError()))
    assert site.was_logged(failed, None)
    node = make(may_leave=site.was_logged if asked == "the log" else lambda *_: True)
    (tmp_path / "errors.log").rename(tmp_path / "aside")
    (tmp_path / "errors.log").mkdir()
    node._client.ask(request())
    (held_back,) = steps(node)
    assert held_back.has_error()
    assert not held_back.error.reason
    assert site.was_logged(failed, None)
    (tmp_path / "errors.log").rmdir()
    node._client.ask(request())
    _, sent = steps(node)
    assert sent.content.config_records["reply"]["body"] == wire.encode(wire.Refusal("protocol"))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileError("unreadable", where="log.jsonl", fix="look"), "log.jsonl: unreadable\n  -> look"),
        (ValueError("patient 4711"), "so nothing may leave (ValueError)\n  -> run client doctor"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file of the site directory cannot be written, so nothing may leave: No space left on device\n"
            "  -> make room, or correct its permissions",
        ),
    ],
)
def test_what_people_are_told_of_a_failing_log_quotes_no_data(error: Exception, text: str) -> None:
    assert unlogged(error).endswith(text)
    assert "4711" not in unlogged(error)


def test_a_message_delivered_twice_is_answered_once(make: Callable[..., Any]) -> None:
    calls = []
    node = make(lambda message, context: calls.append(1) or reply(message, context))
    node._client.ask(request())
    node._client.inbox *= 2
    steps(node, 8)
    assert calls == [1]


@pytest.mark.parametrize(("age", "ahead", "acted"), [(30, 0, 1), (61, 0, 0), (30, -100, 0), (100, 100, 1)])
def test_a_stale_message_is_not_acted_upon_by_the_coordinators_clock(
    make: Callable[..., Any], age: float, ahead: float, acted: int
) -> None:
    calls = []
    node = make(lambda message, context: calls.append(1) or reply(message, context))
    node._client.ask(request(), ttl=60, age=age)
    node._clock.ahead = ahead
    steps(node, 3)
    assert len(calls) == acted


def test_a_reply_whose_acknowledgement_was_lost_is_completed(make: Callable[..., Any]) -> None:
    calls = []
    node = make(lambda message, context: calls.append(1) or reply(message, context))
    node._client.ask(request())
    node._client.lose = 3
    for _ in range(10):
        try:
            node._step()
        except httpx.ReadError:
            continue
    assert calls == [1]
    (received,) = node._client.received()
    assert (received.content["vector"]["vector"].numpy() == np.arange(3)).all()


def test_objects_that_make_no_message_are_answered_with_an_error(make: Callable[..., Any]) -> None:
    node = make(reply)
    node._client.ask(request())
    root = node._client.inbox[0].metadata.message_id
    node._client.objects[root] = node._client.objects[root][:10]
    (received,) = steps(node)
    assert received.has_error()


def test_a_message_that_was_being_worked_on_is_answered_with_an_error_after_a_crash(make: Callable[..., Any]) -> None:
    def crash(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    node = make(crash)
    node._client.ask(request())
    with pytest.raises(KeyboardInterrupt):
        steps(node)
    again = make(reply)
    again._recall()
    (received,) = steps(again, 1)
    assert received.error.code == 8
    assert not received.error.reason
    assert not (again._options.site / "node.message").exists()


def test_a_redirect_is_not_followed(make: Callable[..., Any], tmp_path: Path) -> None:
    node = make(reply)
    fresh = client.node._Node(node._options, threading.Event())
    assert not fresh._client._client.follow_redirects


@pytest.mark.parametrize("key", [None, b"", b"no key"])
def test_a_key_that_cannot_be_used_is_a_usage_error(make: Callable[..., Any], key: bytes | None) -> None:
    options = make(reply)._options
    options.node_key.unlink()
    if key is not None:
        options.node_key.write_bytes(key)
    with pytest.raises(UsageError, match="no usable node key"):
        client.node._Node(options, threading.Event())


def test_a_ca_that_is_none_is_a_file_error(make: Callable[..., Any]) -> None:
    options = make(reply)._options
    with pytest.raises(FileError, match="no CA certificate"):
        client.node._Node(NodeOptions(**{**vars(options), "ca": "x"}), threading.Event())
