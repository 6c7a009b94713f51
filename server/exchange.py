"""One exchange over a Flower `Grid`: push to several hospitals, yield each answer as it arrives, stop at a time-out."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedmodels import wire

NODE_LOST, NODE_FAILED = "its node was lost", "its node failed at work"
_LOST = 3  # Flower's code for a node that is not there; every other one comes from the node
_POLL_SHARE = 0.02  # of the time waited so far: an exchange is at most this much longer than it has to be
_POLL_SECONDS_MIN, _POLL_SECONDS_MAX = 0.001, 0.5


@dataclass(frozen=True, repr=False)
class Answer:
    """A hospital's reply and the array beside it; `problem` says why there is none."""

    node: int
    reply: wire.Reply | None
    array: npt.NDArray[np.uint32] | None
    problem: str = ""

    @property
    def reason(self) -> str:
        """Why it is not the answer that was asked for."""
        if isinstance(self.reply, wire.Refusal):
            return f"refused: {self.reply.rule}"
        return self.problem or "it answered something else than it was asked"


class Exchange:
    """The hospitals that a grid reaches, by node id.

    patience: factor on all time-outs, for a simulation in which that many hospitals wait for one machine.
    """

    def __init__(self, grid: Grid, patience: int = 1) -> None:
        self._grid, self._patience = grid, patience

    def nodes(self) -> list[int]:
        return sorted(self._grid.get_node_ids())

    def ask(
        self, requests: Mapping[int, wire.Request], timeout: float, model: npt.NDArray[np.float32] | None = None
    ) -> Iterator[Answer]:
        """Send each node its request (all with the same model, if any) and yield every answer once, in any order.

        Nodes that have not answered after `timeout` seconds are left out; their messages expire then (`ttl`), so that
        a late node does not act on a stale request. A reply that cannot be read is an answer with a problem.

        However many hospitals there are, it holds one copy of the model, until it is sent, and one reply at a time,
        provided that the caller lets go of an answer before it asks for the next. What a grid holds comes on top: the
        link's, up to four replies that are still arriving.
        """
        timeout *= self._patience
        waiting = self._send(requests, timeout, model)
        start = time.monotonic()
        while waiting and (waited := time.monotonic() - start) < timeout:
            before = len(waiting)
            for message in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(message.metadata.reply_to_message_id, None)
                answer = None if node is None else _answer(node, message)
                del message  # or the bytes of this vector would stay while the caller works and the next one comes
                if answer is not None:
                    yield answer
                del answer
            if waiting and len(waiting) == before:
                time.sleep(min(max(_POLL_SHARE * waited, _POLL_SECONDS_MIN), _POLL_SECONDS_MAX))

    def _send(
        self, requests: Mapping[int, wire.Request], timeout: float, model: npt.NDArray[np.float32] | None
    ) -> dict[str, int]:
        """The node behind each message that was sent."""
        shared = None if model is None else ArrayRecord({"model": Array(model)})
        messages = [
            Message(_content(request, shared), node, MessageType.TRAIN, ttl=timeout)
            for node, request in requests.items()
        ]
        return dict(zip(self._grid.push_messages(messages), requests, strict=True))


def _content(request: wire.Request, model: ArrayRecord | None) -> RecordDict:
    record = RecordDict({"request": ConfigRecord({"body": wire.encode(request)})})
    if model is not None:
        record["model"] = model
    return record


def _answer(node: int, message: Message) -> Answer:
    if message.has_error():
        return Answer(node, None, None, NODE_LOST if message.error.code == _LOST else NODE_FAILED)
    try:
        body = message.content.config_records["reply"]["body"]
        reply = wire.decode_reply(body if isinstance(body, bytes) else b"")
        arrays = message.content.array_records.get("vector")
        array = None if arrays is None else arrays["vector"].numpy()
    except Exception:  # noqa: BLE001 - a hospital chose these bytes, and numpy's reader raises whatever they provoke
        return Answer(node, None, None, "its reply cannot be read")
    if array is not None and (array.dtype != np.uint32 or array.ndim != 1):
        return Answer(node, None, None, "its vector is not uint32 in one dimension")
    return Answer(node, reply, array)
