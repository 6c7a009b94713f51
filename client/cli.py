"""The commands of a hospital, as typed. Each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from fedmodels.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="A hospital: its keys, what it agrees to, what it released.")
ledger_app = typer.Typer(no_args_is_help=True, help="What was spent of the patients' privacy, and what is left.")
log_app = typer.Typer(no_args_is_help=True, help="Every message that left this hospital.")
app.add_typer(ledger_app, name="ledger")
app.add_typer(log_app, name="log")


def _existing(directory: Path) -> Path:
    if not (directory / "name").is_file():
        raise UsageError(
            "there is no hospital in this folder",
            where=str(directory),
            fix="check the path, or make one with `fedmodels client init`",
        )
    return directory


Directory = Annotated[Path, typer.Argument(help="The hospital's directory.", show_default=False, callback=_existing)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The directory to make.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the hospital: a-z, 0-9, - and _.", show_default=False)],
    size: Annotated[int, typer.Option(min=1, help="Its number of patients; told to all, rounded.", show_default=False)],
    invitation: Annotated[Path | None, typer.Option(help="The coordinator's invitation.toml.")] = None,
    data: Annotated[Path | None, typer.Option(help="A data binding (data.toml) to start from.")] = None,
    yes: Yes = False,
) -> None:
    """Make the hospital's directory with its keys, and the card to give to others."""
    from client.commands.joining import init as command

    command(directory, name, size, invitation, data, yes=yes)


@app.command()
def connect(
    directory: Directory,
    invitation: Annotated[Path, typer.Argument(help="The coordinator's invitation.toml.", show_default=False)],
    yes: Yes = False,
) -> None:
    """Pin the coordinator of an invitation; its fingerprint is shown first."""
    from client.commands.joining import connect as command

    command(directory, invitation, yes=yes)


@app.command()
def approve(
    directory: Directory,
    study: Annotated[Path, typer.Argument(help="The study file.", show_default=False)],
    roster: Annotated[Path, typer.Argument(help="The roster file.", show_default=False)],
    yes: Yes = False,
) -> None:
    """Show in plain words what taking part means, and pin study and roster to the byte."""
    from client.commands.approve import approve as command

    command(directory, study, roster, yes=yes)


@app.command()
def doctor(directory: Directory, json: Json = False) -> None:
    """Check keys, policy, network, clock, data, versions and disk, and say what to do."""
    from client.commands.doctor import doctor as command

    command(directory, as_json=json)


@app.command()
def results(
    directory: Directory,
    run: Annotated[Path | None, typer.Option(help="A run directory, to be shown beside the hospital's own.")] = None,
    json: Json = False,
) -> None:
    """How good the model is on this hospital's own test patients, beside the consortium's."""
    from client.commands.results import results as command

    command(directory, run, as_json=json)


@app.command()
def up(directory: Directory) -> None:
    """Connect to the coordinator and answer its requests until stopped."""
    from client.commands.up import up as command

    command(directory)


@app.command()
def model(
    directory: Directory,
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
) -> None:
    """A run's model with the layers in it that this hospital kept to itself, for a study that has such."""
    from client.commands.model import model as command

    command(directory, run, out)


@ledger_app.command("show")
def ledger_show(
    directory: Directory,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw it, too: a .png or .svg.")] = None,
) -> None:
    """Spent and left, per study and in life."""
    from client.commands.ledger import show as command

    command(directory, plot, as_json=json)


@ledger_app.command("verify")
def ledger_verify(
    directory: Directory,
    head: Annotated[str, typer.Option(help="A head that somebody else holds of this hospital, in hex.")] = "",
) -> None:
    """Find an edited, removed or reordered row; with --head, an old copy that was restored."""
    from client.commands.ledger import verify as command

    command(directory, head)


@ledger_app.command("witness")
def ledger_witness(
    directory: Directory,
    hospital: Annotated[str, typer.Argument(help="Only of this one.", show_default=False)] = "",
) -> None:
    """The newest ledger heads held of the other hospitals, to be read out to them."""
    from client.commands.ledger import witness as command

    command(directory, hospital)


@log_app.command("show")
def log_show(
    directory: Directory,
    run: Annotated[str, typer.Option(help="Only of the run whose id begins so.")] = "",
    json: Json = False,
) -> None:
    """When, to whom, what kind, how many bytes, their digest, epsilon."""
    from client.commands.log import show as command

    command(directory, run, as_json=json)


@log_app.command("verify")
def log_verify(directory: Directory) -> None:
    """Prove the log against the bytes that are kept and against the ledger."""
    from client.commands.log import verify as command

    command(directory)
