"""`client init` and `client connect`: keys, card, and the coordinator that is trusted to carry messages."""

from importlib.resources import files
from pathlib import Path

import msgspec
import tomli_w
import typer
from rich.console import Console
from rich.markup import escape

from client.folder import SiteFolder, bind, create_site, declared_size
from fedmodels.data.binding import read_binding
from fedmodels.errors import Refused, UsageError
from fedmodels.files import read_text, write_synced
from fedmodels.joining import Invitation, card_fingerprint, parse_invitation
from fedmodels.typed import Name

_console = Console(soft_wrap=True, highlight=False)


def init(directory: Path, name: str, size: int, invitation: Path | None, data: Path | None, *, yes: bool) -> None:
    """Make a site directory with keys of its own and print the card to give to others."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise UsageError(f"`{name}` cannot be a hospital's name", where="--name", fix="use a-z, 0-9, - and _") from None
    binding = read_binding(data) if data else None
    text = read_text(invitation) if invitation else ""
    invited = parse_invitation(text, str(invitation)) if invitation else None
    create_site(directory, name)
    site = SiteFolder(directory)
    card = site.card(declared_size(size))
    write_synced(directory / "card.toml", tomli_w.dumps(msgspec.to_builtins(card)).encode())
    if binding:
        bind(directory, binding)
    _console.print(f"[bold]{name}[/] is ready in {directory}. Its private keys were made here and never leave.\n")
    _console.print(f"Card, to send to the coordinator: {directory / 'card.toml'}")
    _console.print(f"  fingerprint    [bold]{card_fingerprint(card)}[/]")
    _console.print(f"  declared size  {card.declared_size}{_rounding(size, card.declared_size)}")
    _console.print("Whoever puts this hospital on a roster compares the fingerprint with you over the telephone.\n")
    connected = invited is not None and _pin(site, invited, text, yes=yes)
    _console.print(_next_steps(directory, has_data=bool(binding), connected=connected))


def connect(directory: Path, file: Path, *, yes: bool) -> None:
    """Pin the coordinator of an invitation, after a person has compared its fingerprint."""
    text = read_text(file)
    if not _pin(SiteFolder(directory), parse_invitation(text, str(file)), text, yes=yes):
        raise typer.Exit(1)


def _pin(site: SiteFolder, invitation: Invitation, text: str, *, yes: bool) -> bool:
    """Show whom the invitation is from and pin it; False where a person says no."""
    _console.print(f"Coordinator [bold]{invitation.name}[/] at {escape(invitation.address)}")
    _console.print(f"  fingerprint    [bold]{invitation.fingerprint}[/]")
    if site.policy.coordinators and invitation.fingerprint not in site.policy.coordinators:
        raise Refused(
            "coordinator",
            "this coordinator is not one of those allowed",
            where=str(site.directory / "policy.toml"),
            fix="only this hospital's own people can change `coordinators`",
        )
    before = site.invitation
    if before and before.fingerprint != invitation.fingerprint:
        _console.print(f"[bold]Another one than before[/]: {before.name}, {before.fingerprint}")
    if not yes and not typer.confirm("Did the coordinator's people tell you this fingerprint over another way?"):
        _console.print("Not connected; nothing was changed.")
        return False
    with site.locked():
        write_synced(site.directory / "invitation.toml", text.encode())
    approved = (site.directory / "approved" / "record.json").exists()
    again = " A study that was approved for another coordinator must be approved again." if approved else ""
    _console.print(f"Connected: this hospital talks to nobody else.{again}")
    return True


def _rounding(size: int, declared: int) -> str:
    return f" (rounded from {size}: an exact number says more than it needs to)" if size != declared else ""


def _next_steps(directory: Path, *, has_data: bool, connected: bool) -> str:
    steps = [f"read and adapt {directory / 'policy.toml'}: what this hospital agrees to"]
    if not has_data:
        steps.append(f"write {directory / 'data.toml'}: where its records are")
    if not connected:
        steps.append(f"fedmodels client connect {directory} INVITATION")
    steps += [
        f"fedmodels client approve {directory} STUDY ROSTER, once the coordinator has sent both",
        f"fedmodels client doctor {directory}, then: fedmodels client up {directory}",
        f"to run it as a service: {files('client') / 'fedmodels-client.service'}",
    ]
    return "Next:\n" + "\n".join(f"  {number}. {step}" for number, step in enumerate(steps, 1))
