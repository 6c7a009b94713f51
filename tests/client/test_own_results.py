"""A hospital's own metrics: exact, shown beside the consortium's, and in nothing that leaves."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from federations import Coordinator, run, sites_of
from typer.testing import CliRunner

import client.site
from client.ownresults import own_results_of
from client.site import Site
from fedmodels import wire
from fedmodels.cli import app
from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.errors import FedmodelsError
from fedmodels.evaluation.exact import exact_metrics
from fedmodels.models.artifact import load_model
from fedmodels.models.batches import predict

NONE = ("privacy.mode=none", "evaluation.operating_point=youden")


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["client", "results", *map(str, arguments)])
    if isinstance(result.exception, FedmodelsError):
        return f"{result.exception.exit_code}: {result.exception}"
    assert result.exit_code == 0, result.exception
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("finished")
    _, _, federation = run(folder, *NONE)
    return folder / "run", federation.sites


def test_own_metrics_are_those_of_the_sites_own_test_patients_in_a_file_for_this_user(finished) -> None:
    out, sites = finished
    model, card = load_model(out)
    for path in sites:
        (own,) = own_results_of(path)
        data = load(path / "data.toml", card).part(TEST)
        assert own.metrics == pytest.approx(exact_metrics(predict(model, data, card.input), data.y))
        assert sum(own.counts) == len(data)
        (file,) = (path / "results").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_with_a_run_both_are_told_at_the_consortiums_operating_point(finished) -> None:
    out, sites = finished
    model, card = load_model(out)
    told = json.loads(command(sites[0], "--run", out, "--json"))
    data = load(sites[0] / "data.toml", card).part(TEST)
    exact = exact_metrics(predict(model, data, card.input), data.y, card.working)
    for name in ("n", "accuracy", "sensitivity", "specificity", "auroc", "ece"):
        assert told["metrics"][name] == pytest.approx(exact[name]), name
    assert told["consortium"]["metrics"] == json.loads((out / "result.json").read_text())["metrics"]
    assert told["intervals"]["auroc"][0] <= told["metrics"]["auroc"] <= told["intervals"]["auroc"][1]
    text = command(sites[0], "--run", out)
    assert "consortium" in text
    assert "sensitivity" in text
    alone = command(sites[0])
    assert "consortium" not in alone
    assert f"{told['metrics']['auroc']:.3f}" in alone


def test_a_run_of_others_and_a_site_without_results_are_refused(finished, tmp_path: Path) -> None:
    _, sites = finished
    run(tmp_path, *NONE, "training.rounds=2")
    assert "took no part in this run" in command(sites[0], "--run", tmp_path / "run")
    fresh = sites_of(tmp_path / "fresh")[0]
    assert "2: " in command(fresh.directory)
    assert "no model was evaluated here yet" in command(fresh.directory)
    (sites[1] / "results" / "x.json").write_text("{")
    assert "is not a result" in command(sites[1])


def leaving(site: Site, coordinator: Coordinator) -> bytes:
    reply, vector = site.handle(coordinator.request("evaluate"), coordinator.model)
    assert vector is not None
    kept = [path.read_bytes() for path in (site.directory / "sent").rglob("*") if path.is_file()]
    return b"".join([wire.encode(reply), vector.tobytes(), (site.directory / "log.jsonl").read_bytes(), *kept])


def traces(site: Site) -> list[bytes]:
    """How the exact counts and metrics would look in a message."""
    (own,) = own_results_of(site.directory)
    numbers = [value for value in own.metrics.values() if value not in (0.0, 1.0) and value != int(value)]
    arrays = [np.array(own.counts, kind).tobytes() for kind in (np.int64, np.uint32, np.float64)]
    return [*arrays, *(repr(value).encode() for value in numbers), *(np.float64(v).tobytes() for v in numbers)]


@pytest.mark.parametrize("mode", ["none", "local"])
def test_nothing_that_leaves_holds_the_own_results(tmp_path: Path, mode: str) -> None:
    coordinator = Coordinator(sites_of(tmp_path, f"privacy.mode={mode}"))
    site = coordinator.sites[0]
    left = leaving(site, coordinator)
    assert len(traces(site)) > 6
    assert not [trace for trace in traces(site) if trace in left]


def test_the_test_above_would_notice_counts_that_are_neither_masked_nor_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(sites_of(tmp_path, "privacy.mode=none"))
    site = coordinator.sites[0]
    real = client.site.secagg.upload

    def bare(state, session, digest, vector, **options):  # type: ignore[no-untyped-def]
        plain = vector.copy()
        after, upload = real(state, session, digest, vector, **options)
        upload.vector[:] = plain
        return after, upload

    monkeypatch.setattr(client.site.secagg, "upload", bare)
    left = leaving(site, coordinator)
    assert [trace for trace in traces(site) if trace in left]
