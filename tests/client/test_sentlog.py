"""The log of what left: it lists exactly the bytes, proves them, and nothing leaves that it does not list."""

import hashlib
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from federations import Coordinator, sites_of

from client.folder import SiteFolder
from client.ledger import Charge, LedgerError
from client.proof import Proof, prove
from client.sentlog import UPLOAD, Context, LogError, Message
from client.site import Site
from fedmodels import wire
from fedmodels.errors import FedmodelsError


def keep(site: Site, megabytes: int) -> Site:
    """The same site with a policy that keeps so many megabytes of vectors."""
    path = site.directory / "policy.toml"
    path.write_text(path.read_text().replace("keep_sent_megabytes = 0", f"keep_sent_megabytes = {megabytes}"))
    return Site(site.directory)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    """After one training round and one evaluation of the first hospital, which keeps what it sends."""
    made = Coordinator(sites_of(tmp_path))
    made.sites[0] = keep(made.sites[0], 1)
    made.sites[0].handle(made.request(), made.model)
    made.sites[0].handle(made.request("evaluate"), made.model)
    return made


@pytest.fixture
def site(coordinator: Coordinator) -> Site:
    return coordinator.sites[0]


def proof(site: SiteFolder) -> Proof:
    return prove(site.sent, site.ledger.charges())


def rewrite(site: Site, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = site.sent.path.read_bytes().splitlines(keepends=True)
    site.sent.path.write_bytes(b"".join(change(lines)))


def test_every_message_is_kept_under_its_own_sha256_and_proven(site: Site) -> None:
    found = proof(site)
    assert (found.messages, found.matching, found.uploads) == (3, 3, 2)
    assert (found.absent, found.unused, found.unlisted, found.problems) == (0, 0, 0, [])
    for path in site.sent.kept.iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name.removesuffix(UPLOAD)


def test_the_line_of_an_upload_names_run_and_session_and_what_it_cost(site: Site) -> None:
    _, train, evaluate = [line for line, _ in site.sent.lines()]
    assert (train.kind, train.run, train.session, evaluate.session) == ("train", bytes(16).hex(), 1, 2)
    assert evaluate.epsilon == pytest.approx((train.epsilon or 0.0) + 1.0)


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "edited": (lambda lines: [lines[0].replace(b"setup", b"unmask"), *lines[1:]], "line 2: a line before it"),
    "first removed": (lambda lines: lines[1:], "line 1: a line before it"),
    "middle removed": (lambda lines: [lines[0], lines[2]], "line 2: a line before it"),
    "reordered": (lambda lines: [lines[1], lines[0], lines[2]], "line 1: a line before it"),
}


@pytest.mark.parametrize("change", TAMPERING)
def test_an_edited_removed_or_reordered_line_is_found(site: Site, change: str) -> None:
    tamper, says = TAMPERING[change]
    rewrite(site, tamper)
    assert any(problem.startswith(says) for problem in proof(site).problems)


def test_uploads_removed_at_the_end_leave_charges_and_files_that_no_line_lists(site: Site) -> None:
    rewrite(site, lambda lines: lines[:-1])
    found = proof(site)
    assert (found.unused, found.unlisted) == (1, 1)


def test_bytes_that_were_changed_later_are_found(site: Site) -> None:
    path = next(site.sent.kept.glob(f"*{UPLOAD}"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    (problem,) = proof(site).problems
    assert "not those that the line says" in problem


def test_an_upload_that_the_ledger_does_not_have_is_found(site: Site) -> None:
    charges = site.ledger.charges()
    (problem,) = prove(site.sent, charges[1:]).problems
    assert "session 1, train: 1 different uploads left for 0 charges" in problem


def test_another_vector_under_the_same_charge_is_found(site: Site) -> None:
    """Edited as its owner could, chain and all: the ledger, which is signed, does not agree."""
    site.sent.record(Context("", "", "train", bytes(16).hex(), 1), Message(b"reply", np.zeros(3, np.uint32)))
    assert any("2 different uploads left for 1 charges" in problem for problem in proof(site).problems)


def test_a_repeated_answer_is_one_upload(coordinator: Coordinator, site: Site) -> None:
    request = coordinator.request()
    for _ in range(2):
        site.handle(request, coordinator.model)
    found = proof(site)
    assert (found.messages, found.uploads, found.problems) == (5, 3, [])


def test_the_oldest_vectors_go_first_and_their_lines_stay(coordinator: Coordinator, site: Site) -> None:
    (oldest,) = [line.sha256 for line, _ in site.sent.lines() if line.kind == "train"]
    sizes = [path.stat().st_size for path in site.sent.kept.glob(f"*{UPLOAD}")]
    site.sent._prune(sum(sizes) - 1)
    assert not (site.sent.kept / (oldest + UPLOAD)).exists()
    found = proof(site)
    assert (found.messages, found.matching, found.absent, found.problems) == (3, 2, 1, [])


def test_with_nothing_to_keep_no_vector_is_kept(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    site.handle(coordinator.request(), coordinator.model)
    assert list(site.sent.kept.glob(f"*{UPLOAD}")) == []
    assert (proof(site).matching, proof(site).absent) == (1, 1)


def test_a_kept_vector_takes_no_second_place_on_disk(site: Site) -> None:
    last = max(site.sent.kept.glob(f"*{UPLOAD}"), key=lambda path: path.stat().st_mtime_ns)
    (upload,) = (site.directory / "runs").glob("*.upload")
    assert last.samefile(upload)


def test_only_the_newest_message_on_the_log_may_leave(coordinator: Coordinator, site: Site) -> None:
    one, vector = site.handle(coordinator.request(), coordinator.model)
    assert vector is not None
    body, data = wire.encode(one), vector.tobytes()
    assert site.was_logged(body, data)
    assert not site.was_logged(body, None)
    assert not site.was_logged(body, data[:-1] + bytes([data[-1] ^ 1]))
    assert not site.was_logged(body + b"x", data)
    refusal = site.refuse(ValueError("John Doe"))
    assert site.was_logged(wire.encode(refusal), None)
    assert not site.was_logged(body, data)


def test_nothing_may_leave_before_the_first_line(tmp_path: Path) -> None:
    site = sites_of(tmp_path)[0]
    assert not site.was_logged(b"", None)
    assert not site.sent.path.exists()


def test_a_line_that_a_crash_cut_short_is_passed_over_and_then_mended(coordinator: Coordinator, site: Site) -> None:
    with site.sent.path.open("ab") as log:
        log.write(b'{"time":"2026')
    assert proof(site).problems == []
    site.handle(coordinator.request(), coordinator.model)
    assert (proof(site).messages, proof(site).problems) == (4, [])


def test_a_line_that_is_none_is_a_named_error(site: Site) -> None:
    rewrite(site, lambda lines: [*lines, b"nonsense\n"])
    with pytest.raises(LogError, match="cannot be read"):
        proof(site)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """What a full disk does to a file that would grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files(site: Site) -> dict[str, bytes]:
    skipped = {".lock", "ledger.sqlite"}
    return {str(p): p.read_bytes() for p in site.directory.rglob("*") if p.is_file() and p.name not in skipped}


def fill(site: Site, rows: int) -> None:
    """Charge that many small releases of another study."""
    for number in range(rows):
        site.ledger.append(
            Charge(bytes(32), bytes(32), bytes(16), number, "train", number, (), "", "local", 0.1, 100.0, 1, 1e-5)
        )


def test_where_the_disk_is_full_at_the_ledger_nothing_is_released(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    fill(site, 200)
    before, request = files(site), coordinator.request()
    with largest_file(site.ledger_path.stat().st_size):
        with pytest.raises(LedgerError, match="cannot be read or written"):
            fill(site, 100)
        kept = len(site.ledger.charges())
        with pytest.raises(LedgerError, match="cannot be read or written") as caught:
            site.handle(request, coordinator.model)
        assert "nothing was released" in str(caught.value)
        assert {name: data for name, data in files(site).items() if "ledger" not in name} == {
            name: data for name, data in before.items() if "ledger" not in name
        }
    assert len(Site(site.directory).ledger.charges()) == kept
    site.handle(request, coordinator.model)
    assert len(site.ledger.charges()) == kept + 1


def test_where_the_log_cannot_be_written_nothing_leaves(
    coordinator: Coordinator, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was charged, as for any crash; and the half-written line does no harm later."""
    request, before = coordinator.request(), site.sent.path.read_bytes()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr("client.sentlog.os.write", lambda file, data: real(file, data[:40]))
        with pytest.raises(OSError, match="No space left"):
            site.handle(request, coordinator.model)
    assert len(site.sent.path.read_bytes()) == len(before) + 40
    reply, vector = Site(site.directory).handle(request, coordinator.model)
    assert vector is not None
    assert site.was_logged(wire.encode(reply), vector.tobytes())
    assert (proof(site).messages, proof(site).problems) == (4, [])


def test_the_log_says_to_whom(tmp_path: Path) -> None:
    site = sites_of(tmp_path)[0]
    assert isinstance(site.refuse(FedmodelsError("x")), wire.Refusal)
    assert [line.to for line, _ in site.sent.lines()] == ["coordinator"]
