"""Hospitals that drop out of a simulation: unreachable for a request, or cut off before their answer arrives."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np
from flwr.app import Error, Message
from flwr.clientapp import ClientApp

from fedmodels import wire
from simulations.localgrid import LocalGrid

Fault = Literal["none", "unreachable", "cut off"]
Faults = Callable[[wire.Request, int], Fault]
"""What happens to a request to a node. The same request sent again has the same fate."""

_LOST_NODE = 3  # Flower's error code for a node that is gone


class FaultyGrid(LocalGrid):
    """A `LocalGrid` on which hospitals drop out; the coordinator is told at once, as of a node that Flower misses."""

    def __init__(self, client_app: ClientApp, node_configs: Iterable[Mapping[str, str]], faults: Faults) -> None:
        super().__init__(client_app, node_configs)
        self._faults = faults

    def _reply(self, message: Message) -> Message:
        body = message.content.config_records["request"]["body"]
        fault = self._faults(wire.decode_request(bytes(body)), message.metadata.dst_node_id)  # type: ignore[arg-type]
        if fault == "none":
            return super()._reply(message)
        if fault == "cut off":
            super()._reply(message)
        return Message(Error(_LOST_NODE, ""), reply_to=message)


class RandomFaults:
    """Each hospital fails in each stage of a round with `probability`, half of the time after it has done its work.

    Stages are uploads, the steps of unmasking, and the question whether a hospital is back; set-up never fails. The
    same seed gives the same faults.
    """

    def __init__(self, probability: float, seed: int) -> None:
        self._probability = probability
        self._generator = np.random.default_rng(seed)
        self._fates: dict[tuple[int, bytes], Fault] = {}

    def __call__(self, request: wire.Request, node: int) -> Fault:
        if isinstance(request, wire.SetupRequest):
            return "none"
        if isinstance(request, wire.PresenceRequest):
            return self._draw()  # has a new answer each time
        return self._fates.setdefault((node, wire.encode(request)), self._draw())

    def _draw(self) -> Fault:
        chance, half = self._generator.random(2)
        if chance >= self._probability:
            return "none"
        return "unreachable" if half < 0.5 else "cut off"
