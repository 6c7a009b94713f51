"""In both kinds of round the new protocol state is on the disk before anything leaves that was made from it.

A hospital whose state were older than what it sent would, after a crash, mask a second vector with the same keys, or
release the other kind of secret for a hospital (see `fedmodels.secagg.recovery`).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import Coordinator, sites_of

import client.runfiles
from client.runfiles import RunFiles
from client.sentlog import SentLog
from client.site import Site
from fedmodels import secagg, wire
from fedmodels.files import write_quickly

RECOVER = ("federation.on_dropout=recover", "privacy.max_colluding=0")  # 3 of 4 are enough
REACHED = {
    "retry": secagg.Ready, "upload": secagg.Uploaded, "step A": secagg.PairsRevealed,
    "step B after step A": secagg.Unmasked, "step B": secagg.Unmasked,
}  # fmt: skip
Model = np.ndarray | None


def upload(coordinator: Coordinator, request: wire.ContributeRequest, site: Site) -> None:
    reply, vector = site.handle(request, coordinator.model)
    assert isinstance(reply, wire.ContributeReply)
    assert vector is not None
    coordinator.session.add(reply.header, vector)


def asked(tmp_path: Path, stage: str) -> tuple[Coordinator, wire.Request, Model]:
    """A coordinator, and what it asks its first hospital in a `retry` round or in this stage of a `recover` round."""
    coordinator = Coordinator(sites_of(tmp_path, *(() if stage == "retry" else RECOVER)))
    request, sites = coordinator.request(), coordinator.sites
    if stage in ("retry", "upload"):
        return coordinator, request, coordinator.model
    for site in sites if stage == "step B" else sites[:-1]:
        upload(coordinator, request, site)
    messages = coordinator.session.advance()
    if stage == "step B after step A":
        for site in sites[:-1]:
            answer(coordinator, site, messages[site.name])
        messages = coordinator.session.advance()
    return coordinator, wire.UnmaskRequest(coordinator.run, messages[sites[0].name]), None


def answer(coordinator: Coordinator, site: Site, message: bytes) -> None:
    reply, _ = site.handle(wire.UnmaskRequest(coordinator.run, message), None)
    assert isinstance(reply, wire.UnmaskReply)
    coordinator.session.answer(reply.message)


def is_saved_before_it_leaves(
    monkeypatch: pytest.MonkeyPatch, site: Site, request: wire.Request, model: Model = None
) -> bool:
    """Whether the state that the hospital ends with, a new one, was on the disk when the reply went to the log.

    On the disk: the file was synced, and its folder after the file had got its name.
    """
    (state,) = (site.directory / "runs").glob("*.state")
    before, synced, durable, at_log = state.read_bytes(), set[int](), set[int](), []
    fsync, record = os.fsync, SentLog.record

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)
        if os.fstat(descriptor).st_ino == state.parent.stat().st_ino and state.stat().st_ino in synced:
            durable.add(state.stat().st_ino)

    def log(self: SentLog, *arguments: Any) -> None:
        at_log.append(state.read_bytes() if state.stat().st_ino in durable else b"")
        record(self, *arguments)

    with monkeypatch.context() as watched:
        watched.setattr(os, "fsync", sync)
        watched.setattr(SentLog, "record", log)
        site.handle(request, model)
    after = state.read_bytes()
    return at_log == [after] and after != before


@pytest.mark.parametrize("stage", REACHED)
def test_the_state_is_on_the_disk_before_anything_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    coordinator, request, model = asked(tmp_path, stage)
    site = coordinator.sites[0]
    assert is_saved_before_it_leaves(monkeypatch, site, request, model)
    assert isinstance(RunFiles(site.directory / "runs", coordinator.run).load(), REACHED[stage])


def save_after_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    save, record, waiting = RunFiles.save, SentLog.record, list[Callable[[], None]]()

    def log(self: SentLog, *arguments: Any) -> None:
        record(self, *arguments)
        for late in waiting:
            late()

    monkeypatch.setattr(RunFiles, "save", lambda self, state: waiting.append(lambda: save(self, state)))
    monkeypatch.setattr(SentLog, "record", log)


def save_without_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.runfiles, "write_synced", lambda path, data, **_: write_quickly(path, data))


def save_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunFiles, "save", lambda self, state: None)


@pytest.mark.parametrize("breaks", [save_after_the_log, save_without_a_sync, save_nothing])
@pytest.mark.parametrize("stage", REACHED)
def test_control_a_state_that_is_saved_late_unsynced_or_not_at_all_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    coordinator, request, model = asked(tmp_path, stage)
    breaks(monkeypatch)
    assert not is_saved_before_it_leaves(monkeypatch, coordinator.sites[0], request, model)


@pytest.mark.parametrize("stage", list(REACHED)[2:])
def test_killed_between_saving_and_sending_a_hospital_gives_the_same_answer_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    coordinator, request, _ = asked(tmp_path, stage)
    site, revealed = coordinator.sites[0], []
    reveal = secagg.reveal

    def seen(*arguments: Any) -> Any:
        result = reveal(*arguments)
        revealed.append(result[1])
        return result

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(secagg, "reveal", seen)
    with monkeypatch.context() as power_cut:
        power_cut.setattr(SentLog, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            site.handle(request, None)
    reply, _ = Site(site.directory).handle(request, None)
    assert isinstance(reply, wire.UnmaskReply)
    assert revealed == [reply.message] * 2
