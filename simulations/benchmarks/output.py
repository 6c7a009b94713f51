"""What the commands of `fedmodels bench` print alike."""

import sys
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from rich.console import Console

from simulations.benchmarks.machine import Machine

_COLUMNS = 146


@dataclass(frozen=True)
class Target:
    """A goal of the project. reached: None where this run says nothing about it."""

    name: str
    goal: str
    measured: float | None
    reached: bool | None


def wide_console() -> Console:
    """At least as wide as the tables: a narrow terminal wraps their lines instead of losing columns."""
    return Console(width=max(_COLUMNS, Console().width))


def print_json(report: Any) -> None:  # noqa: ANN401 - any dataclass
    """A report as indented JSON on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(asdict(report)), indent=2).decode() + "\n")


def verdict(reached: bool | None) -> str:
    return "not measured" if reached is None else "reached" if reached else "[bold red]missed[/]"


def describe(machine: Machine, load_after: float) -> str:
    """One sentence about what a benchmark ran on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items() if version)
    return (
        f"{machine.cpu}, {machine.cores} cores, load {machine.load} before and {load_after} after; "
        f"Python {machine.python}, {versions}"
    )
