"""Whole runs of mode `distributed` over the in-process grid: one noisy gradient per round, all of it on the ledgers."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import DISTRIBUTED, charges, grid_of, lose, run, tiny_federation

import client.site
from client.ledger import epsilon_of
from client.site import Site
from fedmodels import wire
from fedmodels.dp.lattice_noise import LatticeMechanism
from fedmodels.dp.plan import plan_for
from fedmodels.errors import RunError
from fedmodels.models.artifact import load_model
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.packing import GradientPacking, MeanUpdate
from fedmodels.secagg.messages import RecoverRequest, decode
from server.app import run_study
from server.exchange import Exchange
from simulations.faults import Fault
from simulations.federation import Federation

RECOVER = (*DISTRIBUTED, "federation.hospitals=7", "federation.on_dropout=recover")


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The m of every noise share that is drawn, in order."""
    drawn: list[int] = []
    real = LatticeMechanism.share

    def share(self: LatticeMechanism, *arguments: Any) -> np.ndarray:
        drawn.append(self.certain_shares)
        return real(self, *arguments)

    monkeypatch.setattr(LatticeMechanism, "share", share)
    return drawn


def sites(federation: Federation) -> list[Site]:
    return [Site(path) for path in federation.sites]


def log_of(site: Site) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.directory / "log.jsonl").read_text().splitlines()]


def test_a_run_promises_what_its_plan_says_and_names_the_observer(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path, *DISTRIBUTED)
    study = Site(federation.sites[0]).study
    plan, promise = plan_for(study), result["privacy"]
    assert plan is not None
    assert (result["mode"], promise["steps"], promise["noise_multiplier"]) == ("distributed", 3, plan.noise_multiplier)
    for said in ("everyone who sees the model", "together with one colluding hospital", "given secure aggregation"):
        assert said in promise["observer"]
    assert set(promise["epsilon"].values()) == {plan.epsilon(3) + study.privacy.evaluation_epsilon}
    assert max(promise["epsilon"].values()) <= study.epsilon_total
    assert [(line.loss, line.clipped, line.epsilon) for line in lines] == [
        (None, 0, plan.epsilon(n)) for n in (1, 2, 3)
    ]
    assert "adds its share of the noise" in " ".join((tmp_path / "run" / "report.html").read_text().split())


def test_ledgers_have_one_sampled_gaussian_for_each_round_and_logs_nothing_else(tmp_path: Path) -> None:
    result, _, federation = run(tmp_path, *DISTRIBUTED)
    for site in sites(federation):
        plan = plan_for(site.study)
        assert plan is not None
        rows = [(c.kind, c.mode, c.sampling_rate, c.noise_multiplier, c.steps, c.delta, c.pure_epsilon)
                for c in site.ledger.charges()]  # fmt: skip
        train = ("train", "distributed", 0.2, plan.noise_multiplier, 1, 1e-5, 0.0)
        assert rows == [train] * 3 + [("evaluate", "distributed", 0.0, 0.0, 0, 0.0, 1.0)]
        log = log_of(site)
        assert [line["kind"] for line in log] == ["setup", "train", "train", "train", "evaluate"]
        parameters = flatten(build_model(site.study)).size
        headers = [line["bytes"] - 4 * parameters for line in log if line["kind"] == "train"]
        assert all(0 < header < 300 for header in headers)
        assert log[-1]["epsilon"] == pytest.approx(result["privacy"]["epsilon"][site.name], abs=1e-6)


def test_after_a_dropout_the_others_draw_larger_shares_and_the_aborted_round_is_charged(
    tmp_path: Path, shares: list[int]
) -> None:
    """Four hospitals, one may collude: m is 3, in the second try of round 2 it is 2."""
    result, lines, federation = run(tmp_path, *DISTRIBUTED, faults=lose(2, 3))
    assert [len(line.hospitals) for line in lines] == [4, 3, 4]
    assert shares == [3] * 4 + [3] * 4 + [2] * 3 + [3] * 4
    assert charges(federation) == [4, 3, 4, 4]
    for site in sites(federation):
        own, _ = epsilon_of(site.ledger.charges(), site.study.digest)
        assert own <= result["privacy"]["epsilon"][site.name] + 1e-9
        assert own <= site.study.epsilon_total
    assert result["privacy"]["epsilon"]["hospital-01"] > result["privacy"]["epsilon"]["hospital-02"]


def test_a_recover_round_goes_on_without_a_dropout_and_plans_noise_for_the_worst(
    tmp_path: Path, shares: list[int]
) -> None:
    """Seven hospitals, any sum over five or more, one may collude: m = 2 * 5 - 7 - 1."""

    def faults(request: wire.Request, node: int) -> Fault:
        first = isinstance(request, wire.ContributeRequest) and request.kind == "train" and node in (3, 5)
        return "cut off" if first and decode(request.session, RecoverRequest).session == 1 else "none"

    result, lines, federation = run(tmp_path, *RECOVER, faults=faults)
    assert [len(line.hospitals) for line in lines] == [5, 7, 7]
    assert shares == [2] * 21
    assert charges(federation) == [3] * 7
    assert result["privacy"]["steps"] == 3


@pytest.mark.parametrize(
    ("rule", "policy"), [("mode", 'modes = ["local"]\n'), ("min-colluding", "min_colluding = 2\n")]
)
def test_a_hospital_whose_policy_asks_for_more_refuses_by_that_rule(tmp_path: Path, rule: str, policy: str) -> None:
    federation = tiny_federation(tmp_path, *DISTRIBUTED, "federation.timeout_seconds=5")
    (federation.sites[1] / "policy.toml").write_text(policy)
    with pytest.raises(RunError, match=f"refused: {rule}"):
        run_on(federation, tmp_path)
    assert Site(federation.sites[1]).ledger.charges() == []


@pytest.mark.parametrize("policy", ['modes = ["distributed"]\n', "min_colluding = 1\n"])
def test_a_hospital_whose_policy_asks_for_what_the_study_has_takes_part(tmp_path: Path, policy: str) -> None:
    federation = tiny_federation(tmp_path, *DISTRIBUTED, "training.rounds=1")
    (federation.sites[1] / "policy.toml").write_text(policy)
    assert run_on(federation, tmp_path)["rounds_completed"] == 1


def run_on(federation: Federation, tmp_path: Path) -> dict[str, Any]:
    exchange = Exchange(grid_of(federation))
    return run_study(exchange, federation.study_file, federation.roster_file, tmp_path / "run")


def test_masking_changes_no_bit_of_a_sum_and_the_model_follows_from_the_sums_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the coordinator decodes against the plain sum of what hospitals computed before masking."""
    vectors: list[np.ndarray] = []
    opened: list[tuple[np.ndarray, MeanUpdate]] = []
    update_vector, unpack = client.site.update_vector, GradientPacking.unpack

    def contribute(*arguments: Any, **named: Any) -> np.ndarray:
        vectors.append(update_vector(*arguments, **named))
        return vectors[-1]

    def decoded(self: GradientPacking, total: np.ndarray, hospitals: tuple[str, ...]) -> MeanUpdate:
        opened.append((total.copy(), unpack(self, total, hospitals)))
        return opened[-1][1]

    monkeypatch.setattr(client.site, "update_vector", contribute)
    monkeypatch.setattr(GradientPacking, "unpack", decoded)
    _, _, federation = run(tmp_path, *DISTRIBUTED)
    rounds = np.array(vectors).reshape(3, 4, -1)
    for parts, (total, _) in zip(rounds, opened, strict=True):
        assert (parts.sum(axis=0, dtype=np.uint32) == total).all()
        assert np.mean(parts[1:].sum(axis=0, dtype=np.uint32) == total) < 0.05  # a vector left out would be seen
    study = Site(federation.sites[0]).study
    steps = [mean.update * min(1.0, study.privacy.clip / (2.0 * mean.noise_norm)) for _, mean in opened]
    trained = flatten(build_model(study)) + study.training.learning_rate * np.sum(steps, axis=0)
    assert flatten(load_model(tmp_path / "run")[0]) == pytest.approx(trained, abs=1e-6)


def test_two_runs_of_a_study_share_one_budget(tmp_path: Path) -> None:
    """A coordinator that starts again gets no more rounds than were planned: three and two retries."""
    federation = tiny_federation(tmp_path, *DISTRIBUTED, "federation.timeout_seconds=5")
    run_on(federation, tmp_path)
    with pytest.raises(RunError, match="refused: releases"):
        run_on(federation, tmp_path / "again")
    for site in sites(federation):
        kinds = Counter(charge.kind for charge in site.ledger.charges())
        assert kinds["train"] == 5
        assert epsilon_of(site.ledger.charges(), site.study.digest)[0] <= site.study.epsilon_total
