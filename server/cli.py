"""The coordinator's commands: `fedmodels server ...`. Each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Coordinate a consortium: keys, roster, link, runs.")
roster_app = typer.Typer(no_args_is_help=True, help="Who takes part: the hospitals' cards.")
app.add_typer(roster_app, name="roster")

Directory = Annotated[Path, typer.Argument(help="The coordinator's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def init(
    directory: Directory,
    name: Annotated[str, typer.Option(help="Name of the coordinator.", show_default=False)],
    address: Annotated[str, typer.Option(help="host:port at which hospitals reach it.", show_default=False)],
    listen: Annotated[str, typer.Option(help="Local address to listen on.")] = "0.0.0.0",  # noqa: S104 - see Settings
    internal_port: Annotated[int, typer.Option(help="Loopback port for this machine's own commands.")] = 9091,
) -> None:
    """Make the coordinator's keys and certificates, and the invitation for the hospitals."""
    from server.commands import init as command

    command(directory, name, address, listen, internal_port)


@roster_app.command("add")
def roster_add(
    directory: Directory,
    cards: Annotated[list[Path], typer.Argument(help="Cards that hospitals sent.", show_default=False)],
) -> None:
    """Put hospitals on the roster, after comparing their fingerprints with them."""
    from server.commands import roster_add as command

    command(directory, cards)


@roster_app.command("remove")
def roster_remove(
    directory: Directory, name: Annotated[str, typer.Argument(help="Name of the hospital.", show_default=False)]
) -> None:
    """Take a hospital off the roster."""
    from server.commands import roster_remove as command

    command(directory, name)


@roster_app.command("list")
def roster_list(directory: Directory) -> None:
    """Show who is on the roster."""
    from server.commands import roster_list as command

    command(directory)


@app.command()
def up(directory: Directory) -> None:
    """Serve the link that hospitals connect to, until it is stopped."""
    from server.commands import up as command

    command(directory)


@app.command()
def run(
    directory: Directory,
    study: Annotated[Path, typer.Argument(help="The study that all hospitals approved.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The run directory to make: a new or empty folder.", show_default="in runs/")
    ] = None,
) -> None:
    """Run a study with the hospitals on the roster."""
    from server.running import run as command

    command(directory, study, out)


@app.command()
def resume(
    directory: Directory,
    run_directory: Annotated[
        Path | None, typer.Argument(help="The run to go on with.", show_default="the last unfinished one")
    ] = None,
) -> None:
    """Go on with a run that was stopped or killed, with the hospitals that are there."""
    from server.running import resume as command

    command(directory, run_directory)


@app.command()
def status(directory: Directory, json: Json = False) -> None:
    """Show whether the link is up, which hospitals are connected, and how far the run is."""
    from server.commands import status as command

    command(directory, as_json=json)


@app.command()
def stop(
    directory: Directory,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the round to end; it is repeated later.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Stop the link too.")] = False,
) -> None:
    """Stop the run after its present round; `server resume` goes on with it."""
    from server.commands import stop as command

    command(directory, now=now, link=link)
