"""What a benchmark ran on: timings mean nothing without it."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("cryptography", "numpy", "torch", "opacus", "flwr", "tenseal")


@dataclass(frozen=True)
class Machine:
    """load: the mean number of running processes over the last minute, ours included."""

    cpu: str
    cores: int
    load: float
    system: str
    python: str
    versions: dict[str, str | None]


def this_machine() -> Machine:
    return Machine(
        _cpu(),
        len(os.sched_getaffinity(0)),
        round(os.getloadavg()[0], 2),
        platform.platform(),
        platform.python_version(),
        {name: _version(name) for name in _PACKAGES},
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = [line.split(":", 1) for line in lines if ":" in line]
    return next((value.strip() for key, value in fields if key.strip() == "model name"), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
