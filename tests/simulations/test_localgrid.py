"""The in-process grid behaves as a wire does: everything is serialised, stale messages are dropped, errors are mute."""

import threading
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from simulations.localgrid import LocalGrid


def grid(handler: Callable[[Message, Context], Message]) -> LocalGrid:
    app = ClientApp()
    app.train()(handler)
    return LocalGrid(app, [{"site": "a"}, {"site": "b"}])


def exchange(grid: LocalGrid, *nodes: int, ttl: float = 10.0) -> list[Message]:
    content = RecordDict({"x": ArrayRecord({"x": Array(np.arange(5, dtype=np.uint32))})})
    ids = list(grid.push_messages([Message(content, node, MessageType.TRAIN, ttl=ttl) for node in nodes]))
    replies: list[Message] = []
    end = time.monotonic() + 2.0
    while len(replies) < len(ids) and time.monotonic() < end:
        replies += grid.pull_messages(ids)
        time.sleep(0.005)
    return replies


def echo(message: Message, context: Context) -> Message:
    message.content.array_records["x"]["who"] = Array(np.array([ord(str(context.node_config["site"]))]))
    return Message(message.content, reply_to=message)


def test_each_node_has_its_own_configuration_and_arrays_arrive_unchanged() -> None:
    replies = exchange(grid(echo), 2, 3)
    found = {m.metadata.src_node_id: m.content.array_records["x"] for m in replies}
    assert {node: chr(int(r["who"].numpy()[0])) for node, r in found.items()} == {2: "a", 3: "b"}
    assert all((r["x"].numpy() == np.arange(5)).all() for r in found.values())


def test_a_node_works_on_a_copy_not_on_the_senders_memory() -> None:
    content = RecordDict({"x": ArrayRecord({"x": Array(np.zeros(1))})})
    one = grid(echo)
    list(one.pull_messages(one.push_messages([Message(content, 2, MessageType.TRAIN)])))
    assert "who" not in content.array_records["x"]


def test_a_stale_message_is_never_acted_on() -> None:
    seen = []

    def slow(message: Message, context: Context) -> Message:
        seen.append(context.node_id)
        time.sleep(0.3)
        return Message(message.content, reply_to=message)

    assert len(exchange(grid(slow), 2, 3, ttl=0.1)) == 1
    assert seen == [2]


def test_an_exception_reaches_the_sender_without_its_text() -> None:
    def fail(message: Message, context: Context) -> Message:
        raise ValueError("secret")

    (reply,) = exchange(grid(fail), 2)
    assert reply.has_error()
    assert "secret" not in str(reply.error)


def test_hospitals_work_in_the_callers_thread_one_for_each_answer() -> None:
    worked: list[threading.Thread] = []

    def work(message: Message, context: Context) -> Message:
        worked.append(threading.current_thread())
        return Message(message.content, reply_to=message)

    one = grid(work)
    ids = list(one.push_messages([Message(RecordDict(), node, MessageType.TRAIN) for node in (2, 3)]))
    assert worked == []
    for done in (1, 2):
        assert len(list(one.pull_messages(ids))) == 1
        assert worked == done * [threading.current_thread()]
    assert list(one.pull_messages(ids)) == []
