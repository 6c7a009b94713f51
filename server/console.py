"""What a person sees of a run in a terminal: a progress bar while it goes on, one table at the end."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedmodels.study import Study
from server.records import RoundLine

_METRICS = ("accuracy", "auroc", "auprc", "macro_f1", "ece", "loss", "n")


def progress_bar(console: Console) -> Progress:
    """A bar over rounds, with the time gone and left."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip


def describe(line: RoundLine) -> str:
    """A finished round in a few words."""
    if line.epsilon is not None:
        return f"round {line.round}  epsilon {line.epsilon:.2f}"
    return f"round {line.round}  loss {line.loss:.3f}"


def announce(console: Console, study: Study) -> None:
    synthetic = " on SYNTHETIC data" if study.study.synthetic else ""
    console.print(
        f"[bold]{study.study.name}[/]: {study.model.name} at {study.federation.hospitals} hospitals{synthetic}, "
        f"privacy mode [bold]{study.privacy.mode}[/], updates securely aggregated"
    )


def metrics_table(result: dict[str, Any]) -> Table:
    """A table with the run's metrics from secure counts as its first row."""
    synthetic = " (SYNTHETIC data)" if result["synthetic"] else ""
    table = Table(title=f"{result['study']}{synthetic}: {result['rounds_completed']} rounds, mode {result['mode']}")
    table.add_column("")
    for metric in _METRICS:
        table.add_column(metric, justify="right")
    table.add_row("from secure counts", *metrics_row(result["metrics"]))
    return table


def metrics_row(metrics: dict[str, float]) -> list[str]:
    """A row of `metrics_table`; empty where there is no such metric."""
    return [("" if m not in metrics else f"{metrics[m]:.0f}" if m == "n" else f"{metrics[m]:.3f}") for m in _METRICS]


def print_promise(console: Console, result: dict[str, Any]) -> None:
    """What the run promises to patients, and how many hospitals dropped out."""
    privacy = result["privacy"]
    if result["mode"] == "none":
        console.print("[bold red]No privacy is promised[/]: mode `none` is a baseline.")
    else:
        worst = max(privacy["epsilon"].values())
        console.print(
            f"Every {privacy['unit']} of every hospital: epsilon {worst:.2f} (evaluation included) at delta "
            f"{privacy['delta']:g}, against {privacy['observer']}."
        )
    if result["dropouts"]:
        console.print(f"{len(result['dropouts'])} dropouts, see the report.")
