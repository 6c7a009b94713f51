"""What a listener lets through to the SuperLink: a path prefix, a secret, a bounded body. ASGI and uvicorn, no Flower.

The public listener answers the Fleet API alone, whose callers the SuperLink knows by their node keys. Control and
Runtime are for the coordinator itself: they are reachable from its own machine only, and Control, which knows no
callers, asks for a token that other users of that machine do not have.
"""

import asyncio
import hmac
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from anyio import to_thread

from fedmodels.errors import RunError

Event = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET = "/v1/fleet/"
RUNTIME = "/v1/runtime/"
MAX_BODY = 16 << 20
"""Bytes of a request; objects travel in chunks of 5 MB, so nothing honest comes near."""


def public(app: App) -> App:
    """`app` for hospitals: 404 for all but the Fleet API, 413 for bodies of more than `MAX_BODY` bytes."""
    bounded = _bounded(app)

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(FLEET):
            await bounded(scope, receive, send)
        else:
            await _refuse(scope, send, 404)

    return gate


def internal(app: App, token: str) -> App:
    """`app` for the coordinator's own processes: whatever has no credentials of its own asks for `token`."""
    bounded, expected = _bounded(app), b"Bearer " + token.encode()

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
        elif scope["type"] != "http":
            await _refuse(scope, send, 404)
        elif scope["path"].startswith((FLEET, RUNTIME)) or hmac.compare_digest(
            _header(scope, b"authorization"), expected
        ):
            await bounded(scope, receive, send)
        else:
            await _refuse(scope, send, 401)

    return gate


def _bounded(app: App) -> App:
    """`app` with the whole body of a request read beforehand, and refused while it is read if it gets too long."""

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        announced = _header(scope, b"content-length")
        if announced and (not announced.isdigit() or int(announced) > MAX_BODY):
            await _refuse(scope, send, 413)
            return
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            parts.append(event.get("body", b""))
            size, more = size + len(parts[-1]), event.get("more_body", False)
            if size > MAX_BODY:
                await _refuse(scope, send, 413)
                return
        body: Event | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}
        parts.clear()

        async def replay() -> Event:
            nonlocal body
            event, body = body, None
            return await receive() if event is None else event

        await app(scope, replay, send)

    return bounded


def _header(scope: Scope, name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def serve(listeners: Mapping[App, socket.socket], certificate: Path, key: Path, ready: Callable[[], None]) -> None:
    """Serve each app over TLS on its listener until SIGTERM or SIGINT; the first one gets ASGI's lifespan events."""
    servers: dict[_Server, socket.socket] = {}
    for app, listener in listeners.items():
        config = uvicorn.Config(
            app, lifespan="off" if servers else "on", log_config=None, log_level="warning", access_log=False,
            ssl_certfile=str(certificate), ssl_keyfile=str(key), timeout_graceful_shutdown=5, server_header=False,
            proxy_headers=False,
        )  # fmt: skip
        servers[_Server(config)] = listener
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(servers, ready))


class _Server(uvicorn.Server):
    """A server that leaves signals to `_run`, which stops all of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _run(servers: Mapping[_Server, socket.socket], ready: Callable[[], None]) -> None:
    def stop() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    # Nearly every call writes to one SQLite file: side by side they wait for its lock in sleeps of up to 100 ms.
    to_thread.current_default_thread_limiter().total_tokens = 1
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers.items()]
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):
        await asyncio.sleep(0.02)
    if all(server.started for server in servers):
        ready()
    await asyncio.gather(*tasks)
    if not all(server.started for server in servers):
        raise RunError("the link could not start", fix="read its log")
