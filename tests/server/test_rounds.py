"""A whole run at the coordinator over the in-process grid: sums, dropouts, retries, lying and broken hospitals."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from federations import charges, grid_of, lose, run, tiny_federation
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.site import Site
from fedmodels import wire
from fedmodels.errors import RunError, UsageError
from fedmodels.secagg.messages import RecoverRequest, decode
from fedmodels.study import Roster
from server.app import run_study
from server.exchange import Exchange
from server.rundir import check_new
from simulations.faults import Fault
from simulations.localgrid import LocalGrid


def test_without_dropouts_every_round_has_every_hospital(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path)
    assert [line.round for line in lines] == [1, 2, 3]
    assert all(len(line.hospitals) == 4 for line in lines)
    assert result["dropouts"] == []
    assert charges(federation) == [3, 3, 3, 3]
    assert result["privacy"]["steps"] == 6


def test_a_dropout_costs_one_retry_and_every_upload_of_it_is_charged(tmp_path: Path) -> None:
    result, lines, federation = run(tmp_path, faults=lose(2, 3))
    assert [len(line.hospitals) for line in lines] == [4, 3, 4]  # it is back for the third round
    assert [(d["round"], d["kind"], d["hospital"]) for d in result["dropouts"]] == [(2, "train", "hospital-02")]
    assert charges(federation) == [4, 3, 4, 4]
    assert result["rounds_completed"] == 3


def test_a_hospital_that_stays_away_is_left_out(tmp_path: Path) -> None:
    def faults(request: wire.Request, node: int) -> Fault:
        gone = node == 3 and not isinstance(request, wire.SetupRequest)
        return "unreachable" if gone else "none"

    result, lines, federation = run(tmp_path, faults=faults)
    assert [len(line.hospitals) for line in lines] == [3, 3, 3]
    assert charges(federation) == [4, 0, 4, 4]
    asked, left = result["privacy"]["epsilon"]["hospital-01"], result["privacy"]["epsilon"]["hospital-02"]
    assert asked > left
    assert result["metrics"]  # noisy, but there


def test_the_coordinator_never_reports_less_epsilon_than_a_hospitals_own_ledger(tmp_path: Path) -> None:
    from client.ledger import epsilon_of

    result, _, federation = run(tmp_path, faults=lose(2, 3))
    for path in federation.sites:
        site = Site(path)
        own, _ = epsilon_of(site.ledger.charges(), site.study.digest)
        assert own <= result["privacy"]["epsilon"][site.name] + 1e-9


def test_more_dropouts_than_retries_end_the_run_and_the_error_names_them(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="hospital-02"):
        run(tmp_path, "federation.max_retries=0", faults=lose(1, 3))


def test_too_few_reachable_hospitals_end_the_run(tmp_path: Path) -> None:
    def faults(request: wire.Request, node: int) -> Fault:
        return "unreachable" if node in (2, 3) and not isinstance(request, wire.SetupRequest) else "none"

    with pytest.raises(RunError, match="only 2 hospitals are reachable, 3 are needed") as caught:
        run(tmp_path, "federation.timeout_seconds=1.0", faults=faults)
    assert "hospital-01, hospital-02" in str(caught.value)


def test_without_privacy_a_round_is_run_again_over_the_whole_roster_or_not_at_all(tmp_path: Path) -> None:
    result, lines, _ = run(tmp_path, "privacy.mode=none", faults=lose(1, 3))
    assert [len(line.hospitals) for line in lines] == [4, 4, 4]
    assert len(result["dropouts"]) == 1


@pytest.mark.parametrize("stage", ["upload", "step A", "step B"])
def test_a_recover_round_loses_who_drops_out_and_nobody_trains_again(tmp_path: Path, stage: str) -> None:
    def faults(request: wire.Request, node: int) -> Fault:
        if isinstance(request, wire.ContributeRequest) and request.kind == "train":
            first = decode(request.session, RecoverRequest).session == 1
            return "cut off" if first and node == 3 and stage != "step B" else "none"
        late = isinstance(request, wire.UnmaskRequest) and node == {"step A": 4, "step B": 5}.get(stage, 0)
        return "unreachable" if late and not fired and not fired.append(1) else "none"

    fired: list[int] = []
    settings = ["federation.hospitals=7", "federation.on_dropout=recover", "training.rounds=2"]
    result, lines, federation = run(tmp_path, *settings, faults=faults)
    lost = {"upload": 1, "step A": 2, "step B": 0}[stage]
    assert [len(line.hospitals) for line in lines] == [7 - lost, 7]
    assert len(result["dropouts"]) == lost
    assert charges(federation) == [2] * 7


def test_a_lost_reply_is_asked_for_again_and_costs_nothing(tmp_path: Path) -> None:
    fired: list[int] = []

    def faults(request: wire.Request, node: int) -> Fault:
        lost = isinstance(request, wire.ContributeRequest) and node == 3 and not fired
        return "cut off" if lost and not fired.append(1) else "none"

    result, _, federation = run(tmp_path, faults=faults)
    assert result["dropouts"] == []
    assert charges(federation) == [3, 3, 3, 3]


def test_a_lost_evaluation_leaves_the_model_and_says_why(tmp_path: Path) -> None:
    def faults(request: wire.Request, node: int) -> Fault:
        lost = isinstance(request, wire.ContributeRequest) and request.kind == "evaluate" and node == 3
        return "cut off" if lost else "none"

    result, _, federation = run(tmp_path, faults=faults)
    assert result["metrics"] == {}
    assert {d["kind"] for d in result["dropouts"]} == {"evaluate"}
    assert (tmp_path / "run" / "model.safetensors").exists()
    paid = [c.pure_epsilon for c in Site(federation.sites[0]).ledger.charges() if c.kind == "evaluate"]
    assert len(paid) > 1
    assert sum(paid) == 1.0


def test_a_hospital_that_does_not_answer_in_time_is_a_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull = LocalGrid.pull_messages

    seen: list[int] = []  # its upload and the answer to the second request for it are lost

    def late(grid: LocalGrid, ids: Iterable[str]) -> Iterable[Message]:
        for message in pull(grid, ids):
            lost = "vector" in message.content and message.metadata.src_node_id == 3 and len(seen) < 2
            if not lost or seen.append(1):
                yield message

    monkeypatch.setattr(LocalGrid, "pull_messages", late)
    monkeypatch.setattr("server.consortium._QUICK_SECONDS", 1.0)
    result, lines, _ = run(tmp_path, "federation.timeout_seconds=8", "training.rounds=1")
    assert [len(line.hospitals) for line in lines] == [3]
    assert [(d["hospital"], d["reason"]) for d in result["dropouts"]] == [("hospital-02", "no answer in time")]


def test_a_hospital_that_refuses_is_named_with_its_rule(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path, "federation.timeout_seconds=5")
    (federation.sites[1] / "policy.toml").write_text("epsilon_per_study = 1.0\n")
    grid = grid_of(federation)
    with pytest.raises(RunError, match=r"refused: epsilon-per-study") as caught:
        run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run")
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
    assert "failed" in str(caught.value)
    assert "John" not in str(caught.value)
    assert "John Doe" in (tmp_path / "sites" / "hospital-01" / "errors.log").read_text()


def test_a_run_directory_is_never_written_over(tmp_path: Path) -> None:
    _, _, federation = run(tmp_path)
    grid = grid_of(federation)
    with pytest.raises(UsageError, match="already"):
        run_study(Exchange(grid), federation.study_file, federation.roster_file, tmp_path / "run")


@pytest.mark.parametrize("name", ["uploads/scan.npy", "study.toml", ".hidden"])
def test_a_folder_that_holds_anything_else_is_no_run_directory(tmp_path: Path, name: str) -> None:
    federation, mine = tiny_federation(tmp_path), tmp_path / "run" / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        run_study(Exchange(grid_of(federation)), federation.study_file, federation.roster_file, tmp_path / "run")
    assert mine.read_bytes() == b"mine"
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [mine]
    assert all(Site(site).ledger.charges() == [] for site in federation.sites)


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        check_new(tmp_path / "run")


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


def test_every_message_expires_with_its_exchange() -> None:
    """Or a late node would act on a stale request."""
    pushed: list[Message] = []

    class Silent(LocalGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            pushed.extend(messages)
            return [str(i) for i in range(len(pushed))]

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            return []

    grid = Silent(ClientApp(), [{}, {}])
    assert list(Exchange(grid, patience=2).ask({2: wire.PresenceRequest(bytes(16), bytes(16))}, 0.1)) == []
    assert [message.metadata.ttl for message in pushed] == [pytest.approx(0.2)]


@pytest.mark.parametrize("data", [b"", b"rubbish", b"\x93NUMPY" + bytes(100), b"PK\x03\x04" + bytes(50)])
def test_a_malformed_vector_from_a_hospital_is_an_answer_with_a_problem(data: bytes) -> None:
    def answer(message: Message, context: Context) -> Message:
        array = Array("uint32", (3,), "numpy.ndarray", data)
        body = wire.encode(wire.ContributeReply(b"x"))
        reply = {"reply": ConfigRecord({"body": body}), "vector": ArrayRecord({"vector": array})}
        return Message(RecordDict(reply), reply_to=message)

    app = ClientApp()
    app.train()(answer)
    grid = LocalGrid(app, [{}])
    (got,) = Exchange(grid).ask({2: wire.PresenceRequest(bytes(16), bytes(16))}, 5.0)
    assert got.reply is None
    assert "cannot be read" in got.problem
