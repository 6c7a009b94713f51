"""The walls of the architecture: who may import whom, read from the source itself."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedmodels", "server", "client", "simulations")
PRIVATE_FLOWER = ("flwr.common", "flwr.proto", "flwr.supercore", "flwr.superlink", "flwr.supernode", "flwr.server.")
BENCHMARK_ADAPTERS = {"simulations/benchmarks/aggregation/flower.py"}
MAY_USE_PRIVATE_FLOWER = {"server/link.py", "client/node.py", "simulations/localgrid.py"} | BENCHMARK_ADAPTERS
PURE = ("fedmodels/secagg/*.py", "fedmodels/study*.py", "fedmodels/typed.py", "fedmodels/strict_toml.py",
        "fedmodels/canonical.py",
        "fedmodels/dp/plan.py", "fedmodels/dp/accounting.py", "fedmodels/dp/adjacency.py",
        "fedmodels/dp/renyi_filter.py",
        "fedmodels/dp/lattice_noise.py", "client/policy.py")  # fmt: skip
IMPURE = {"torch", "flwr", "os", "time", "random", "secrets", "pathlib", "socket", "datetime", "opacus"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tops(path: Path) -> set[str]:
    return {module.split(".")[0] for module in imports(path)}


def test_server_and_client_never_import_each_other() -> None:
    for path in sources():
        if name(path).startswith("server/"):
            assert not tops(path) & {"client", "simulations"}, name(path)
        if name(path).startswith("client/"):
            assert not tops(path) & {"server", "simulations"}, name(path)


def test_fedmodels_imports_no_app_and_no_flower_but_in_its_composition_root() -> None:
    for path in sources():
        if name(path).startswith("fedmodels/") and name(path) != "fedmodels/cli.py":
            assert not tops(path) & {"server", "client", "simulations", "flwr"}, name(path)


def test_flowers_private_names_stay_behind_the_adapters() -> None:
    for path in sources():
        if name(path) not in MAY_USE_PRIVATE_FLOWER:
            assert not [m for m in imports(path) if m.startswith(PRIVATE_FLOWER)], name(path)


def test_the_core_has_no_io_clock_or_ambient_randomness() -> None:
    checked = [path for pattern in PURE for path in ROOT.glob(pattern)]
    assert len(checked) > len(PURE)
    for path in checked:
        assert not tops(path) & IMPURE, name(path)


def test_errors_import_nothing() -> None:
    assert list(imports(ROOT / "fedmodels/errors.py")) == []


def test_no_assert_and_no_numpy_global_randomness_in_the_product() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{name(path)}:{node.lineno}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                legacy = node.value.attr == "random" and node.attr in {"rand", "randn", "seed", "normal", "choice"}
                assert not legacy, f"{name(path)}:{node.lineno}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_imported_packages_are_ours(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / package


def test_help_needs_no_torch() -> None:
    code = "import sys, fedmodels.cli; sys.exit('torch' in sys.modules or 'flwr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
