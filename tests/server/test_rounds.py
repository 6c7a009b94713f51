"""A whole run at the coordinator over the in-process grid: sums, dropouts, retries, lying and broken hospitals."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from federations import grid_of, tiny_federation
from flwr.app import Message, RecordDict

from client.site import Site
from fedmodels.errors import RunError, UsageError
from fedmodels.study import Roster
from server.app import run_study
from server.rounds import RoundLine
from simulations.federation import Federation
from simulations.localgrid import LocalGrid


class LossyGrid(LocalGrid):
    """Empties the replies that `lost(contribution number from 1, node)` names, after the hospital has sent them."""

    lost: Callable[[int, int], bool] = staticmethod(lambda *_: False)
    pushed = -1  # the set-up is number 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.pushed += 1
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            if not reply.has_error() and self.lost(self.pushed, reply.metadata.src_node_id):
                reply.content = RecordDict()
        return replies


def run(
    tmp_path: Path, *settings: str, lost: Callable[[int, int], bool] = lambda *_: False
) -> tuple[dict, list[RoundLine], Federation]:
    federation = tiny_federation(tmp_path, *settings)
    grid = grid_of(federation)
    grid.__class__, grid.lost = LossyGrid, lost
    lines: list[RoundLine] = []
    try:
        result = run_study(grid, federation.study_file, federation.roster_file, tmp_path / "run", lines.append)
    finally:
        grid.close()
    return result, lines, federation


def charges(federation: Federation) -> list[int]:
    return [len([c for c in Site(path).ledger.charges() if c.kind == "train"]) for path in federation.sites]


def test_without_dropouts_every_round_has_every_hospital(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path)
    assert [line.round for line in lines] == [1, 2, 3]
    assert all(len(line.hospitals) == 4 for line in lines)
    assert result["dropouts"] == []
    assert charges(federation) == [3, 3, 3, 3]
    assert result["privacy"]["steps"] == 6


def test_a_dropout_costs_one_retry_and_every_upload_of_it_is_charged(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path, lost=lambda number, node: number == 2 and node == 3)
    assert [len(line.hospitals) for line in lines] == [4, 3, 3]
    assert [(d["round"], d["hospital"]) for d in result["dropouts"]] == [(2, "hospital-02")]
    assert charges(federation) == [4, 2, 4, 4]
    assert result["rounds_completed"] == 3
    asked, left = result["privacy"]["epsilon"]["hospital-01"], result["privacy"]["epsilon"]["hospital-02"]
    assert asked > left


def test_the_coordinator_never_reports_less_epsilon_than_a_hospitals_own_ledger(tmp_path: Path) -> None:
    from client.ledger import epsilon_of

    result, _, federation = run(tmp_path, lost=lambda number, node: number == 2 and node == 3)
    for path in federation.sites:
        site = Site(path)
        own, _ = epsilon_of(site.ledger.charges(), site.study.digest)
        assert own <= result["privacy"]["epsilon"][site.name] + 1e-9


def test_more_dropouts_than_retries_end_the_run_and_the_error_names_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="hospital-02"):
        run(tmp_path, "federation.max_retries=0", lost=lambda number, node: number == 1 and node == 3)


def test_fewer_than_the_smallest_number_of_hospitals_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="min_contributors"):
        run(tmp_path, lost=lambda number, node: number == 1 and node in (2, 3))


def test_without_privacy_a_round_is_not_run_twice(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="without privacy"):
        run(tmp_path, "privacy.mode=none", lost=lambda number, node: number == 1 and node == 3)


def test_a_lost_evaluation_leaves_the_model_and_says_why(tmp_path: Path) -> None:
    result, _, _ = run(tmp_path, lost=lambda number, node: number == 4 and node == 3)
    assert result["metrics"] == {}
    assert [d["reason"] for d in result["dropouts"]] == ["its reply cannot be read"]
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_hospital_that_does_not_answer_in_time_is_a_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull = LocalGrid.pull_messages

    def late(grid: LocalGrid, ids: Iterable[str]) -> Iterable[Message]:
        return [m for m in pull(grid, ids) if "vector" not in m.content or m.metadata.src_node_id != 3]

    monkeypatch.setattr(LocalGrid, "pull_messages", late)
    result, lines, _ = run(tmp_path, "federation.timeout_seconds=8", "training.rounds=1")
    assert [len(line.hospitals) for line in lines] == [3]
    assert [(d["hospital"], d["reason"]) for d in result["dropouts"]] == [("hospital-02", "no answer in time")]


def test_a_hospital_that_refuses_is_named_with_its_rule(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path, "federation.timeout_seconds=5")
    (federation.sites[1] / "policy.toml").write_text("epsilon_per_study = 1.0\n")
    grid = grid_of(federation)
    with pytest.raises(RunError, match=r"refused: epsilon-per-study") as caught:
        run_study(grid, federation.study_file, federation.roster_file, tmp_path / "run")
    grid.close()
    assert "hospital-02" in str(caught.value)


def test_an_unexpected_error_at_a_hospital_says_nothing_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its text: it may quote a patient. The hospital's own log has it."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("patient John Doe is ill")

    monkeypatch.setattr("client.site.update_vector", fail)
    with pytest.raises(RunError) as caught:
        run(tmp_path)
    assert "internal-error" in str(caught.value)
    assert "John" not in str(caught.value)
    assert "John Doe" in (tmp_path / "sites" / "hospital-01" / "errors.log").read_text()


def test_a_run_directory_is_never_written_over(tmp_path: Path) -> None:
    _, _, federation = run(tmp_path)
    grid = grid_of(federation)
    with pytest.raises(UsageError, match="already"):
        run_study(grid, federation.study_file, federation.roster_file, tmp_path / "run")
    grid.close()


def test_the_model_moves_by_the_weighted_mean_of_what_the_hospitals_computed(tmp_path: Path) -> None:
    """Mode none, one round, against an average computed outside secure aggregation: equal to the lattice."""
    from client.training import train_plain
    from fedmodels.data.dataset import TRAIN
    from fedmodels.data.load import load
    from fedmodels.models.artifact import load_model
    from fedmodels.models.registry import build_model
    from fedmodels.models.weights import flatten

    _, _, federation = run(tmp_path, "privacy.mode=none", "training.rounds=1")
    study, roster = Site(federation.sites[0]).study, Site(federation.sites[0]).roster
    start = flatten(build_model(study))
    total = np.zeros(start.size)
    for position, path in enumerate(federation.sites):
        data = load(path / "data.toml", study).part(TRAIN)
        update = train_plain(study, start, data, (study.training.seed, 1, position))
        total += update.delta.astype(np.float64) * roster.hospital[position].declared_size
    expected = start + total / sum(roster.sizes.values())
    model, _ = load_model(tmp_path / "run")
    assert isinstance(roster, Roster)
    assert flatten(model) == pytest.approx(expected, abs=1e-6)
