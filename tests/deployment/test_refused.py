"""What a deployed hospital refuses, each with its own word and no change; and a full disk."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_until
from life import Consortium, command

from fedmodels import wire
from fedmodels.errors import RunError
from fedmodels.joining import verify_presence
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.settings import apply_settings
from fedmodels.study import parse_roster, parse_study
from server.app import run_study
from server.consortium import Consortium as Sums
from server.exchange import Exchange
from server.home import Home
from server.link import Link
from server.nodes import link_config

pytestmark = pytest.mark.deployment


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    with Consortium(tmp_path_factory.mktemp("refused"), "training.rounds=2", "federation.max_retries=2") as made:
        made.up()
        yield made


def link_of(consortium: Consortium) -> Link:
    return Link(link_config(Home(consortium.home)))


def run(consortium: Consortium, study: Path | None = None, roster: Path | None = None) -> None:
    """Run a study in this process; raises what the coordinator's command would say."""
    out = consortium.folder / f"run-{time.monotonic_ns()}"
    with link_of(consortium).open_run("test") as grid:
        run_study(Exchange(grid), study or consortium.study, roster or consortium.home / "roster.toml", out)


def books(consortium: Consortium) -> list[bytes]:
    """The ledgers' content."""
    return [
        (h.site / "ledger.sqlite").read_bytes() for h in consortium.hospitals if (h.site / "ledger.sqlite").exists()
    ]


def test_a_study_that_nobody_approved(consortium: Consortium) -> None:
    before, other = books(consortium), consortium.folder / "other.toml"
    other.write_text(apply_settings(consortium.study.read_text(), ["training.learning_rate=0.6"]))
    with pytest.raises(RunError, match="study-not-approved"):
        run(consortium, study=other)
    assert books(consortium) == before


def test_another_roster(consortium: Consortium) -> None:
    before, other = books(consortium), consortium.folder / "roster.toml"
    other.write_text((consortium.home / "roster.toml").read_text().replace("= 150", "= 160", 1))
    with pytest.raises(RunError, match="roster-not-approved"):
        run(consortium, roster=other)
    assert books(consortium) == before


def test_an_approved_study_that_changed_by_one_byte(consortium: Consortium) -> None:
    before, pinned = books(consortium), consortium.hospitals[1].site / "approved" / "study.toml"
    text = pinned.read_bytes()
    pinned.write_bytes(text + b"\n")
    with pytest.raises(RunError, match="approval-changed"):
        run(consortium)
    pinned.write_bytes(text)
    assert books(consortium) == before


def test_a_policy_that_no_longer_allows_it(consortium: Consortium) -> None:
    before, policy = books(consortium), consortium.hospitals[2].site / "policy.toml"
    text = policy.read_text()
    policy.write_text(text.replace('modes = ["local", "distributed"]', 'modes = ["distributed"]'))
    try:
        with pytest.raises(RunError, match="refused: mode"):
            run(consortium)
    finally:
        policy.write_text(text)
    assert books(consortium) == before


def test_replayed_and_stale_messages(consortium: Consortium) -> None:
    """The last request again gets the same bytes at no cost; an older one, or one that comes too late, nothing."""
    study, roster = (
        parse_study(consortium.study.read_text()),
        parse_roster((consortium.home / "roster.toml").read_text()),
    )
    first = consortium.hospitals[0]
    with link_of(consortium).open_run("test") as grid:
        exchange = Exchange(grid)
        sent: list[tuple[int, wire.ContributeRequest]] = []
        ask = exchange.ask

        def note(requests, timeout, model=None):
            sent.extend((n, r) for n, r in requests.items() if isinstance(r, wire.ContributeRequest))
            return ask(requests, timeout, model)

        exchange.ask = note  # type: ignore[method-assign]
        sums, model = Sums(study, roster, exchange, consortium.folder), flatten(build_model(study))
        sums.set_up()
        for number in (1, 2):
            total, _ = sums.sum("train", number, model, model.size + 2)
            assert total.size == model.size + 2
        before = books(consortium)
        node = sums._nodes[first.name]
        requests = [request for where, request in sent if where == node]
        (again,) = ask({node: requests[1]}, 20, model)
        assert isinstance(again.reply, wire.ContributeReply)
        (replayed,) = ask({node: requests[0]}, 20, model)
        assert replayed.reply == wire.Refusal("protocol")
        assert "this session is over" in first.errors
        first.program.process.send_signal(signal.SIGSTOP)
        late = list(ask({node: wire.PresenceRequest(sums.run_id, bytes(16))}, 1.0))
        time.sleep(0.5)
        first.program.process.send_signal(signal.SIGCONT)
        assert [answer.reply for answer in late] in ([], [None])  # Flower may say itself that it was too late
        (present,) = ask({node: wire.PresenceRequest(sums.run_id, bytes(16))}, 20)
        assert isinstance(present.reply, wire.PresenceReply)
        assert verify_presence(roster.keys[first.name], sums.run_id, bytes(16), present.reply.signature)
    assert books(consortium) == before


def test_an_exhausted_budget(consortium: Consortium) -> None:
    """The two uploads of the test before, and the two that a lower lifetime budget leaves no room for."""
    before, policy = books(consortium), consortium.hospitals[0].site / "policy.toml"
    text = policy.read_text()
    policy.write_text(text.replace("epsilon_lifetime = 20.0", "epsilon_lifetime = 5.0"))
    try:
        with pytest.raises(RunError, match="refused"):
            run(consortium)
    finally:
        policy.write_text(text)
    assert "epsilon_lifetime: " in consortium.hospitals[0].errors
    assert books(consortium)[0] == before[0]


def test_a_ledger_that_was_restored_from_an_old_copy(consortium: Consortium) -> None:
    first, (old,) = consortium.hospitals[1], [consortium.folder / "old"]
    old.mkdir()
    files = ("ledger.sqlite", "ledger.head")
    for name in files:
        shutil.copy2(first.site / name, old / name)
    study = consortium.folder / "more.toml"
    study.write_text(apply_settings(consortium.study.read_text(), ["study.name=more", "privacy.epsilon=2"]))
    for hospital in consortium.hospitals:
        command("client", "approve", str(hospital.site), str(study), str(consortium.home / "roster.toml"), "--yes")
    out = consortium.folder / "more"
    with link_of(consortium).open_run("test") as grid:
        run_study(Exchange(grid), study, consortium.home / "roster.toml", out, heads=Home(consortium.home).heads)
    new = {name: (first.site / name).read_bytes() for name in files}
    for name in files:
        shutil.copy2(old / name, first.site / name)
    with link_of(consortium).open_run("test") as grid, pytest.raises(RunError, match="ledger-restored"):
        run_study(Exchange(grid), study, consortium.home / "roster.toml", consortium.folder / "again",
                  heads=Home(consortium.home).heads)  # fmt: skip
    for name, data in new.items():
        (first.site / name).write_bytes(data)
    command("client", "ledger", "verify", str(first.site))
    held = command("client", "ledger", "witness", str(consortium.hospitals[0].site))
    assert first.name in held


def test_a_full_disk_at_the_ledger_releases_nothing_and_the_study_finishes_once_there_is_room(tmp_path: Path) -> None:
    with Consortium(tmp_path, "training.rounds=6", "federation.max_retries=20") as made:
        first = made.hospitals[0]
        with small_disk(first.site, tmp_path / "aside") as fill:
            made.up()
            made.run()
            made.wait_for_round(2)
            empty = fill()
            wait_until(lambda: "No space left" in first.errors + first.text(), 60, made.trouble)
            empty()
            result = made.finish(180)
            assert result["rounds_completed"] == 6
            trained = [row["round"] for row in first.ledger() if row["kind"] == "train"]
            assert set(trained) == {1, 2, 3, 4, 5, 6}
            first.stop()


class small_disk:  # noqa: N801 - a context manager
    """Moves a folder to a file system of 200 MiB; gives a function that fills it, which gives one that makes room."""

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside

    def __enter__(self):
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        shutil.copytree(self.folder, self.aside)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(self.folder)], check=False)
        if done.returncode:
            pytest.skip("this machine does not let tests mount a small file system")
        shutil.copytree(self.aside, self.folder, dirs_exist_ok=True)
        return self.fill

    def fill(self):
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        return filler.unlink

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
