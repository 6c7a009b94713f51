"""`client up`: connect this hospital to its coordinator and answer requests until told to stop."""

import signal
import threading
from datetime import datetime
from pathlib import Path

import typer

from client.commands.doctor import failed, show
from client.doctor import CHEAP, examine
from client.node import NodeOptions, run_node
from client.site import Site
from fedmodels.errors import FedmodelsError


def up(directory: Path) -> None:
    """Run until SIGTERM or Ctrl-C. What can be checked in a moment is checked first."""
    site = Site(directory)
    checks = [*examine(site, CHEAP)]
    if failed(checks) or site.invitation is None:
        show(site.name, checks)
        raise FedmodelsError("this hospital is not ready", where=str(directory), fix="see the table above")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = NodeOptions(
        address=site.invitation.address,
        ca=site.invitation.certificate,
        node_key=directory / "node.key",
        site=directory,
        on_event=_say,
        may_leave=lambda reply, vector: _may_leave(Site(directory), reply, vector),
    )
    _say(f"{site.name} answers to {site.invitation.name} at {site.invitation.address}")
    run_node(options, stop)
    _say("stopped")


def _may_leave(site: Site, reply: bytes, vector: bytes | None) -> bool:
    """Whether the log lists exactly this message; tells the people here what leaves."""
    if not site.was_logged(reply, vector):
        return False
    if line := site.sent.newest():
        why = ", see errors.log" if line.kind == "refusal" else ""
        _say(f"sends {line.kind}{why}: {line.bytes:,} bytes, SHA-256 {line.sha256[:16]}")
    return True


def _say(event: str) -> None:
    typer.echo(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {event}")
