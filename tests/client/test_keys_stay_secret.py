"""An upload that fails in the middle tells no key: not to the coordinator, and not in the hospital's own logs."""

import errno
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federations import Coordinator, sites_of
from key_text import shows, with_locals

import client.runfiles
from client.keys import identity_of
from client.runfiles import RunFiles
from client.site import Site
from fedmodels import secagg, wire
from fedmodels.secagg import contributor, recovery
from fedmodels.secagg.primitives import Secret

KINDS = {"retry": (), "recover": ("federation.on_dropout=recover", "privacy.max_colluding=0")}
Break = Callable[[pytest.MonkeyPatch], None]


def fail(error: Exception) -> Callable[..., Any]:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    return failing


def masking_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contributor, recovery):
        monkeypatch.setattr(module, "mask_in_place", fail(MemoryError()))


def saving_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a frame that has the bytes of the new state at hand."""
    monkeypatch.setattr(client.runfiles, "write_synced", write_to_a_full_disk)


def write_to_a_full_disk(path: Path, data: bytes, *, mode: int) -> None:
    raise OSError(errno.ENOSPC, f"no room for {len(data)} bytes with mode {mode}", str(path))


def state_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    load = secagg.load
    monkeypatch.setattr(secagg, "load", lambda data: load(data[:-1] + bytes([data[-1] ^ 1])))


def told_by_a_failed_upload(monkeypatch: pytest.MonkeyPatch, site: Site, coordinator: Coordinator) -> str:
    """All that the hospital says of an upload that fails: the reply, its logs, what Python logs."""
    said: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    logging.getLogger().addHandler(handler := Listening())
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
            site.handle(coordinator.request(), coordinator.model)
        refusal = site.refuse(caught.value)
    finally:
        logging.getLogger().removeHandler(handler)
    assert refusal == wire.Refusal("failed")
    logs = [(site.directory / name).read_text(encoding="utf-8") for name in ("errors.log", "log.jsonl")]
    assert len(logs[0]) > 50
    return "\n".join([repr(wire.encode(refusal)), *logs, *said])


def keys_of(monkeypatch: pytest.MonkeyPatch, site: Site, coordinator: Coordinator) -> list[bytes]:
    """Every key that the hospital has before and after the upload, which is listened to as it is saved."""
    keys = [identity_of(site.directory).private_bytes_raw()]
    dump = secagg.dump

    def seen(state: secagg.State) -> bytes:
        keys.extend(secrets(state))
        return dump(state)

    state = RunFiles(site.directory / "runs", coordinator.run).load()
    assert isinstance(state, secagg.Announced)
    keys.append(state.secret.reveal())
    ready = secagg.finish_setup(state, secagg.relay(coordinator.aggregator))
    keys.extend(secrets(ready))
    monkeypatch.setattr(secagg, "dump", seen)
    return keys


def secrets(state: secagg.State) -> list[bytes]:
    if isinstance(state, secagg.Ready):
        return [key.reveal() for key in state.chains.values()]
    assert isinstance(state, secagg.Uploaded)
    kept = [*state.ready.chains.values(), *state.round.pair_seeds.values(), *state.round.share_keys.values()]
    return [key.reveal() for key in (*kept, state.round.own_share)]


def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, breaks: Break) -> tuple[str, list[bytes]]:
    """(what is told of an upload that fails, the keys that are not to be in it)."""
    coordinator = Coordinator(sites_of(tmp_path, *KINDS[kind]))
    site = coordinator.sites[0]
    keys = keys_of(monkeypatch, site, coordinator)
    breaks(monkeypatch)
    return told_by_a_failed_upload(monkeypatch, site, coordinator), keys


@pytest.mark.parametrize("breaks", [masking_fails, saving_fails, state_is_damaged])
@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_that_fails_in_the_middle_tells_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, breaks: Break
) -> None:
    told, keys = failed(tmp_path, monkeypatch, kind, breaks)
    assert len(keys) >= 5
    assert not shows(told, keys)


@pytest.mark.parametrize("kind", KINDS)
def test_control_a_log_of_local_variables_would_tell_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(traceback, "format_exception", lambda error: [with_locals(error)])
    told, keys = failed(tmp_path, monkeypatch, kind, saving_fails)
    assert shows(told, keys)


def test_control_an_error_that_quotes_a_key_would_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[bytes] = []

    def quote(_: Any, *, plus: list[Secret], minus: list[Secret], **__: Any) -> Any:
        seeds.extend(key.reveal() for key in (*plus, *minus))
        raise ValueError(f"masks {seeds}")

    told, keys = failed(
        tmp_path, monkeypatch, "retry", lambda patch: patch.setattr(contributor, "mask_in_place", quote)
    )
    assert shows(told, seeds)
    assert not shows(told, keys)
