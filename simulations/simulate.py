"""`fedmodels simulate`: a whole study on one machine, through the same server and client code as in deployment."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import nn

from client.app import register
from client.site import Site
from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.errors import FedmodelsError, RunError
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.files import write_synced
from fedmodels.models.artifact import load_model
from fedmodels.models.batches import predict
from fedmodels.models.device import device
from fedmodels.models.registry import expected_parameters
from fedmodels.report.page import write_report
from fedmodels.study import Study
from server.app import OnRound, run_study
from server.exchange import Exchange
from simulations.faults import FaultyGrid, RandomFaults
from simulations.federation import Federation

Backend = Literal["local", "ray"]
Scored = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
_PARAMETERS_WORTH_THREADS = 1_000_000


def run_federation(
    federation: Federation, out: Path, backend: Backend, on_round: OnRound, drop: float = 0.0
) -> dict[str, Any]:
    """Run the study of `federation` and leave a run directory at `out`; returns the content of `result.json`.

    drop: probability that a hospital fails in a stage of a round; only on the local backend.
    """
    study, sites = Site(federation.sites[0]).study, federation.sites
    if backend == "ray":
        return _run_ray(federation, out, on_round)
    faults = RandomFaults(drop, study.training.seed)
    grid = FaultyGrid(register(ClientApp()), [{"site": str(site)} for site in sites], faults)
    with _few_threads(study):
        exchange = Exchange(grid, patience=len(sites))
        return run_study(exchange, federation.study_file, federation.roster_file, out, on_round)


@contextmanager
def _few_threads(study: Study) -> Iterator[None]:
    """One thread for a small model: on a busy machine torch's barriers cost it several times what they save."""
    before = torch.get_num_threads()
    if expected_parameters(study) < _PARAMETERS_WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_ray(federation: Federation, out: Path, on_round: OnRound) -> dict[str, Any]:
    """The same through Flower's simulation engine, with the hospitals in Ray's worker processes."""
    from flwr.simulation import run_simulation  # slow to import

    sites = [str(site.resolve()) for site in federation.sites]
    client = register(ClientApp(), lambda context: Path(sites[int(context.node_config["partition-id"])]))
    server, outcome = ServerApp(), _Outcome()
    cores = os.cpu_count() or 1
    patience = -(-len(sites) // cores)

    @server.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's signature
        outcome.keep(
            lambda: run_study(Exchange(grid, patience), federation.study_file, federation.roster_file, out, on_round)
        )

    run_simulation(server, client, len(sites), backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                   "init_args": {"num_cpus": cores, "include_dashboard": False}})  # fmt: skip
    return outcome.get()


class _Outcome:
    """Carries the result, or the error that a person should see, out of the thread that Flower runs a ServerApp in."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._result: dict[str, Any] = {}
        self._error: FedmodelsError | None = None

    def keep(self, work: Callable[[], dict[str, Any]]) -> None:
        try:
            self._result = work()
        except FedmodelsError as error:
            self._error = error
        self._done.set()

    def get(self) -> dict[str, Any]:
        if self._error:
            raise self._error
        if not self._done.is_set():
            raise RunError("the simulation ended without a result", where="Ray", fix="try `--backend local`")
        return self._result


def add_exact_metrics(study: Study, federation: Federation, out: Path) -> dict[str, Any]:
    """Put metrics that only a simulation can have into `result.json`: exact ones, pooled and per hospital."""
    _, card = load_model(out)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    scored: dict[str, Scored] = {}
    for site, model in zip(federation.sites, models_of(federation, out), strict=True):
        if len(data := load(site / "data.toml", study).part(TEST)):
            scored[site.name] = predict(model, data, study.input), data.y
    result["simulation"] = {
        "about": "computed from the test records of all hospitals in one place: possible in a simulation only",
        "metrics": exact_metrics(*_together(list(scored.values())), card.working) if scored else {},
        "per_hospital": {name: exact_metrics(p, y, card.working) for name, (p, y) in scored.items()},
    }
    write_synced(out / "result.json", json.dumps(result, indent=2).encode() + b"\n")
    write_report(out)
    return result


def models_of(federation: Federation, out: Path) -> list[nn.Module]:
    """The model that each hospital would use after the run in `out`, in order, on `device()`."""
    run_id = bytes.fromhex(json.loads((out / "result.json").read_text())["run_id"])
    models = []
    for site in federation.sites:
        model, _ = load_model(out)
        if own := Site(site).own_layers(run_id):
            own.complete(model)
        models.append(model.to(device()))
    return models


def _together(scored: list[Scored]) -> Scored:
    return np.concatenate([p for p, _ in scored]), np.concatenate([y for _, y in scored])
