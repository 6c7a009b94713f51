"""The commands of `fedmodels audit`; each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Attack a study's privacy, for an auditor who trusts nobody.")

Study = Annotated[str, typer.Argument(help="A study file, or the name of a bundled study.", show_default=False)]
NewFolder = Annotated[Path, typer.Option(help="The folder to make.", show_default=False)]
Mode = Annotated[str, typer.Option(help="Another privacy mode; `distributed` with constants for it.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="Change a key, say privacy.epsilon=3. Repeatable.")]
Records = Annotated[Path, typer.Option("--data", help="A data binding that you may look at.", show_default=False)]
Hospitals = Annotated[
    list[Path],
    typer.Option("--data", help="The data binding of a hospital of the run. Repeatable.", show_default=False),
]
Shadows = Annotated[int, typer.Option(help="Models to train for comparison: an even number, 4 or more for LiRA.")]


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
