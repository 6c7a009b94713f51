"""What the coordinator's short commands do; `running` has the long ones."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedmodels.errors import FedmodelsError, UsageError
from fedmodels.files import read_text
from fedmodels.joining import card_fingerprint, parse_card, parse_invitation
from fedmodels.study import parse_study
from server.home import Home, Settings

_console = Console()


def init(directory: Path, name: str, address: str, listen: str, internal_port: int) -> None:
    """Make a coordinator's directory and say what to do with it."""
    home = Home.create(directory, Settings(name, address, listen, internal_port))
    fingerprint = parse_invitation(read_text(home.invitation)).fingerprint
    _console.print(f"Coordinator [bold]{name}[/] in {directory}.")
    _console.print(f"Send {home.invitation} to the hospitals, and read this fingerprint to them by telephone:")
    _console.print(f"  [bold]{fingerprint}[/]")
    _console.print(
        f"Next: `fedmodels server roster add {directory} CARD...` with their cards, then `server up {directory}`. "
        f"{home.pki.ca_key} and {home.secret} must never leave this machine."
    )


def roster_add(directory: Path, cards: list[Path]) -> None:
    home = Home(directory)
    _ = home.settings
    parsed = [parse_card(read_text(path), str(path)) for path in cards]
    for card in parsed:
        home.add_hospital(card)
    _console.print("Compare each fingerprint with the hospital, by telephone or in a signed letter:")
    roster_list(directory)
    _console.print(f"Send {home.roster_file} and the study to every hospital; each must approve both.")


def roster_remove(directory: Path, name: str) -> None:
    Home(directory).remove_hospital(name)
    _console.print(
        f"{name} is off the roster, and may not connect once the link is started anew; to come back it needs a "
        "new site directory. Studies with the others need the new roster approved by every hospital."
    )


def roster_list(directory: Path) -> None:
    table = Table("hospital", "declared size", "fingerprint of its card")
    for hospital in Home(directory).hospitals:
        table.add_row(hospital.name, str(hospital.declared_size), card_fingerprint(hospital))
    _console.print(table)


def up(directory: Path) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from server.link import Link, serve
    from server.nodes import drop_others, link_config, register_roster
    from server.pki import utc_now

    home = Home(directory)
    settings = home.settings
    with home.hold("link"):
        if home.pki.renew(settings.host, utc_now()):
            _console.print("The server certificate was renewed; hospitals pin the CA and need nothing new.")
        config = link_config(home)

        def ready() -> None:
            _console.print(f"Hospitals connect to {settings.address}; the Fleet API alone answers there.")
            register_roster(Link(config), home.hospitals)
            drop_others(Link(config), home.hospitals)
            _console.print(f"{len(home.hospitals)} hospitals may connect: those on the roster.")

        serve(config, lambda: threading.Thread(target=ready, daemon=True).start())


def status(directory: Path, *, as_json: bool) -> None:
    home = Home(directory)
    found = _status(home)
    if as_json:
        _console.print_json(json.dumps(found))
        return
    link = f"up at {found['address']}" if found["link"] else "down"
    table = Table(title=f"{found['name']}: link {link}")
    table.add_column("hospital")
    table.add_column("connected")
    table.add_column("in the last round")
    run = found["run"]
    for hospital in found["hospitals"]:
        online = {True: "yes", False: "[bold red]no[/]", None: "?"}[hospital["connected"]]
        took_part = "" if not run or not run["round"] else "yes" if hospital["name"] in run["hospitals"] else "no"
        table.add_row(hospital["name"], online, took_part)
    _console.print(table)
    if run:
        epsilon = "" if run["epsilon"] is None else f", epsilon {run['epsilon']:.2f} so far"
        _console.print(
            f"{run['study']}: {run['state']}, round {run['round']} of {run['rounds']}{epsilon}. {run['directory']}"
        )


def _status(home: Home) -> dict[str, Any]:
    settings = home.settings
    connected: dict[str, bool | None] = dict.fromkeys((h.name for h in home.hospitals), None)
    up = home.holder("link") is not None
    if up:
        from server.link import Link
        from server.nodes import link_config

        try:
            online = {node.name: node.online for node in Link(link_config(home)).nodes()}
            connected = {name: online.get(name, False) for name in connected}
        except FedmodelsError:
            up = False  # it is starting or ending
    return {
        "name": settings.name,
        "address": settings.address,
        "link": up,
        "hospitals": [{"name": name, "connected": state} for name, state in connected.items()],
        "run": _last_run(home),
    }


def _last_run(home: Home) -> dict[str, Any] | None:
    runs = sorted(home.runs.glob("*/rounds.jsonl"), key=lambda path: path.stat().st_mtime)
    if not runs:
        return None
    directory = runs[-1].parent
    study = parse_study(read_text(directory / "study.toml"))
    lines = [json.loads(row) for row in runs[-1].read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
    last = lines[-1] if lines else {"round": 0, "hospitals": [], "epsilon": None}
    state = "finished" if (directory / "result.json").exists() else "stopped"
    if state == "stopped" and home.holder("run") is not None:
        state = "running"
    return {
        "directory": str(directory),
        "study": study.study.name,
        "state": state,
        "round": last["round"],
        "rounds": study.training.rounds,
        "hospitals": last["hospitals"],
        "epsilon": last["epsilon"],
        "seconds_per_round": sum(line["seconds"] for line in lines) / len(lines) if lines else None,
    }


def stop(directory: Path, *, now: bool, link: bool) -> None:
    home = Home(directory)
    _ = home.settings
    running, serving = home.holder("run"), home.holder("link")
    if running:
        os.kill(running, signal.SIGTERM if now else signal.SIGINT)
        _console.print("The run ends " + ("now." if now else "after its present round."))
    elif not link:
        raise UsageError("no study is running", where=str(directory), fix="`server status` shows what is there")
    if link and serving:
        if running:
            raise UsageError("a study is still running", where=str(directory), fix="wait for it to end, then try again")
        os.kill(serving, signal.SIGTERM)
        _console.print("The link is stopped.")
    elif link and not running:
        raise UsageError("the link is not up", where=str(directory))
