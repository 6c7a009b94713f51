"""The commands of `fedmodels audit`; each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Attack a study's privacy, for an auditor who trusts nobody.")

Study = Annotated[str, typer.Argument(help="A study file, or the name of a bundled study.", show_default=False)]
NewFolder = Annotated[Path, typer.Option(help="The folder to make.", show_default=False)]
Sites = Annotated[
    list[str] | None,
    typer.Option(help="A number of hospitals to divide pooled data among, or a folder per hospital. Repeatable."),
]
Data = Annotated[Path | None, typer.Option(help="A pooled data binding to divide.")]
Partition = Annotated[str, typer.Option(help="How to divide it: iid, or dirichlet:ALPHA.")]
Mode = Annotated[str, typer.Option(help="Another privacy mode; `distributed` with constants for it.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="Change a key, say privacy.epsilon=3. Repeatable.")]
Canaries = Annotated[int, typer.Option(min=100, help="Canaries with a coordinate of their own.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Records = Annotated[Path, typer.Option("--data", help="A data binding that you may look at.", show_default=False)]
Hospitals = Annotated[
    list[Path],
    typer.Option("--data", help="The data binding of a hospital of the run. Repeatable.", show_default=False),
]
Shadows = Annotated[int, typer.Option(help="Models to train for comparison: an even number, 4 or more for LiRA.")]


@app.command("run")
def audit_run(
    study: Study,
    out: NewFolder,
    sites: Sites = None,
    data: Data = None,
    partition: Partition = "iid",
    mode: Mode = "",
    canaries: Canaries = 20_000,
    setting: Setting = None,
) -> None:
    """Lower bounds on epsilon from one run with canaries, beside what the ledgers charge. As long as a simulation."""
    from fedmodels.settings import for_mode
    from simulations.auditing.commands import run as command
    from simulations.commands import Subject

    command(Subject(study, sites or [], data, partition, [*for_mode(mode), *(setting or [])]), out, canaries)


@app.command("colluders")
def audit_colluders(
    study: Study,
    out: NewFolder,
    colluders: Annotated[int, typer.Option("-c", "--colluders", min=0, help="Up to so many.")] = 1,
    sites: Sites = None,
    data: Data = None,
    partition: Partition = "iid",
    mode: Mode = "",
    canaries: Canaries = 20_000,
    setting: Setting = None,
) -> None:
    """What the coordinator and colluding hospitals see when they subtract what they know, and epsilon against them."""
    from fedmodels.settings import for_mode
    from simulations.auditing.commands import colluders as command
    from simulations.commands import Subject

    subject = Subject(study, sites or [], data, partition, [*for_mode(mode), *(setting or [])])
    command(subject, out, canaries, colluders)


@app.command("self-test")
def audit_self_test(
    honest: Annotated[int, typer.Option(min=1, help="Runs of the correct implementation.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A folder to make, with the result as JSON.")] = None,
    json: Json = False,
) -> None:
    """Break the product on purpose, in many ways, and see whether the audit notices. Half a minute."""
    from simulations.auditing.self_test_command import self_test as command

    command(honest, out, as_json=json)


@app.command("transcript")
def audit_transcript(
    site: Annotated[Path, typer.Argument(help="A hospital's site directory.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="A folder to make, with the result as JSON.")] = None,
    json: Json = False,
) -> None:
    """Check what left a hospital from its own log and ledger alone, offline."""
    from client.commands.transcript import transcript as command

    command(site, out, as_json=json)


@app.command("view")
def audit_view(study: Study, data: Records, out: NewFolder, mode: Mode = "", setting: Setting = None) -> None:
    """Show what a coordinator can see of patients, with and without each protection. Minutes for images."""
    from fedmodels.settings import for_mode
    from simulations.auditing.view_command import view as command

    command(study, data, out, [*for_mode(mode), *(setting or [])])


@app.command("membership")
def audit_membership(
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    data: Hospitals,
    out: NewFolder,
    shadows: Shadows = 16,
) -> None:
    """Tell from a run's model who was trained on, by site and by class. Trains the study once per shadow model."""
    from simulations.auditing.membership_command import membership as command

    command(run, data, shadows, out)


@app.command("report")
def audit_report(
    folder: Annotated[Path, typer.Argument(help="A folder that has the folders of other audits.", show_default=False)],
) -> None:
    """Join what the other commands left in a folder into one page: who is protected from whom, by how much."""
    from fedmodels.commands.audit import report as command

    command(folder)
