"""Killing the coordinator at any point of a run loses no finished round, and hospitals are charged for what left."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from federations import charges, grid_of, tiny_federation

from client.ledger import epsilon_of
from client.site import Site
from fedmodels import wire
from fedmodels.errors import RunError, UsageError
from server import checkpoint as module
from server.app import resume_study, run_study
from server.checkpoint import Checkpoint, Journal
from server.exchange import Exchange
from server.optimiser import ServerState
from server.records import Dropout, RoundLine
from simulations.faults import Fault, FaultyGrid
from simulations.federation import Federation


class Killed(BaseException):
    """As if the process had ended here."""


def killed_at(kind: type, nth: int) -> Callable[[wire.Request, int], Fault]:
    """The coordinator ends when the `nth` request of this kind is on its way."""
    seen = 0

    def faults(request: wire.Request, node: int) -> Fault:
        nonlocal seen
        seen += isinstance(request, kind)
        if isinstance(request, kind) and seen == nth:
            raise Killed
        return "none"

    return faults


class MortalGrid(FaultyGrid):
    """A grid on which `Killed` reaches the coordinator."""

    def _deliver(self, body: bytes, pushed: float):
        try:
            return super()._deliver(body, pushed)
        except Killed as end:
            self.end = end
            return None

    end: Killed | None = None

    def pull_messages(self, message_ids):
        if self.end:
            raise self.end
        return super().pull_messages(message_ids)


def start(federation: Federation, out: Path, faults: Callable[[wire.Request, int], Fault]) -> list[RoundLine]:
    from flwr.clientapp import ClientApp

    from client.app import register

    lines: list[RoundLine] = []
    grid = MortalGrid(register(ClientApp()), [{"site": str(site)} for site in federation.sites], faults)
    with suppress(Killed):
        run_study(Exchange(grid), federation.study_file, federation.roster_file, out / "run", lines.append,
                  out / "heads.json")  # fmt: skip
    return lines


def resume(federation: Federation, out: Path) -> tuple[dict, list[RoundLine]]:
    lines: list[RoundLine] = []
    return resume_study(Exchange(grid_of(federation)), out / "run", lines.append, out / "heads.json"), lines


@pytest.mark.parametrize("dropout", ["retry", "recover"])
@pytest.mark.parametrize(
    ("kind", "nth", "finished"),
    [
        (wire.SetupRequest, 2, 0),
        (wire.ContributeRequest, 1, 0),
        (wire.ContributeRequest, 3, 0),
        (wire.ContributeRequest, 6, 1),
        (wire.ContributeRequest, 11, 2),
        (wire.ContributeRequest, 14, 3),  # in the evaluation
    ],
)
def test_a_run_goes_on_after_its_coordinator_was_killed(
    tmp_path: Path, dropout: str, kind: type, nth: int, finished: int
) -> None:
    federation = tiny_federation(tmp_path, f"federation.on_dropout={dropout}")
    before = start(federation, tmp_path, killed_at(kind, nth))
    assert [line.round for line in before] == list(range(1, finished + 1))
    result, after = resume(federation, tmp_path)
    assert [line.round for line in after] == list(range(finished + 1, 4))
    rows = [json.loads(row) for row in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert rows[: len(before)] == [json.loads(module.msgspec.json.encode(line)) for line in before]
    assert result["rounds_completed"] == 3
    assert result["metrics"]
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    for path in federation.sites:  # the coordinator never reports less than a hospital's own ledger
        site = Site(path)
        own, _ = epsilon_of(site.ledger.charges(), site.study.digest)
        assert own <= result["privacy"]["epsilon"][site.name] + 1e-9


def test_a_run_that_is_killed_between_checkpoint_and_line_keeps_the_round(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path)
    start(federation, tmp_path, killed_at(wire.ContributeRequest, 6))
    rounds = tmp_path / "run" / "rounds.jsonl"
    whole = rounds.read_bytes()
    rounds.write_bytes(whole[:20])  # the line was cut off by the crash
    resume(federation, tmp_path)
    assert rounds.read_bytes().startswith(whole)
    uploads = charges(federation)
    assert uploads[:2] == [4, 3]  # the second round was lost after the first upload
    assert set(uploads[2:]) <= {3, 4}  # whoever was asked at the same time may have uploaded too


def test_session_numbers_are_on_disk_before_a_session_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = tiny_federation(tmp_path)
    real, numbers = Journal.keep_session, []

    def note(self: Journal, next_session: int, lies: Iterable[Dropout]) -> None:
        real(self, next_session, lies)
        numbers.append((next_session, json.loads((tmp_path / "run" / "session").read_text())["next"]))

    monkeypatch.setattr(Journal, "keep_session", note)
    start(federation, tmp_path, lambda *_: "none")
    assert numbers == [(2, 2), (3, 3), (4, 4), (5, 5)]


def test_resuming_goes_on_without_a_hospital_that_is_gone(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path)
    start(federation, tmp_path, killed_at(wire.ContributeRequest, 6))
    gone = federation.sites[1]
    fewer = Federation(federation.study_file, federation.roster_file, tuple(s for s in federation.sites if s != gone))
    result, lines = resume(fewer, tmp_path)
    assert [line.hospitals for line in lines] == [("hospital-01", "hospital-03", "hospital-04")] * 2
    assert result["rounds_completed"] == 3


def test_without_privacy_a_recover_round_is_not_run_twice_by_resuming(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path, "privacy.mode=none", "federation.on_dropout=recover")
    start(federation, tmp_path, killed_at(wire.ContributeRequest, 6))
    with pytest.raises(RunError, match="must not be run twice"):
        resume(federation, tmp_path)


def test_lost_rounds_use_up_the_studys_retries(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path, "federation.max_retries=0")
    start(federation, tmp_path, killed_at(wire.ContributeRequest, 6))
    with pytest.raises(RunError, match="max_retries"):
        resume(federation, tmp_path)


def test_what_cannot_be_resumed_says_so(tmp_path: Path) -> None:
    federation = tiny_federation(tmp_path)
    with pytest.raises(UsageError, match="no run in this folder"):
        resume(federation, tmp_path)
    start(federation, tmp_path, lambda *_: "none")
    with pytest.raises(UsageError, match="finished"):
        resume(federation, tmp_path)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    model, average, first, second = (generator.normal(size=50) for _ in range(4))
    line = RoundLine(7, ("a", "b"), None, 0.1, 3, 1.5, 2.0)
    before = Checkpoint(
        b"r" * 16, b"keys", 9, ServerState(model, average, first, second, 7), 2, {"a": 8, "b": 8},
        (Dropout(3, "train", "b", "no answer in time"),), {"training": 0.5}, line, ("b",),
    )  # fmt: skip
    journal = Journal(tmp_path, tmp_path / "heads.json")
    journal.save(before)
    after = journal.load()
    assert after is not None
    assert (after.run_id, after.keys, after.next_session, after.retries) == (b"r" * 16, b"keys", 9, 2)
    assert (after.asked, after.dropouts, after.seconds, after.line) == (
        {"a": 8, "b": 8}, before.dropouts, {"training": 0.5}, line
    )  # fmt: skip
    assert after.liars == ("b",)
    for name in ("model", "average", "first", "second"):
        assert np.array_equal(getattr(after.state, name), getattr(before.state, name))
    lie = Dropout(4, "train", "a", "it gave wrong shares")
    journal.keep_session(11, [lie])  # two sessions were opened after the checkpoint
    lost = journal.load()
    assert lost is not None
    assert (lost.next_session, lost.retries, lost.asked) == (11, 0, {"a": 10, "b": 10})
    assert (lost.liars, lost.dropouts) == (("a", "b"), (*before.dropouts, lie))


@pytest.mark.parametrize("damage", [b"", b"\x00" * 30, b"{}"])
def test_a_damaged_checkpoint_is_a_named_error(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(damage)
    with pytest.raises(RunError, match="cannot be read"):
        Journal(tmp_path, tmp_path / "heads.json").load()
