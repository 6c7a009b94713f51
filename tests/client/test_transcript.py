"""A site's transcript: right as the hospital left it; each way to tamper is found by the check that is meant for it.

Whoever tampers here is as able as the hospital's own administrator: the chain of the log is made whole again after
every change, and rows of the ledger are signed with the hospital's own key where that is possible.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest
from federations import DISTRIBUTED, Coordinator, lose, run, sites_of
from scipy.stats import binom
from typer.testing import CliRunner

from client.folder import SiteFolder
from client.ledger import Charge, Ledger
from client.sentlog import Context, Line, Message, line_hash
from client.site import Site
from client.transcript import checks
from client.transcript.examination import examine
from client.transcript.kept import read
from client.transcript.uniformity import FEWEST_WORDS, TESTS, chances
from fedmodels import secagg, wire
from fedmodels.cli import app
from fedmodels.errors import RemoteProtocolError
from fedmodels.report.audit_record import read_folder
from fedmodels.secagg import contributor, keystream
from fedmodels.secagg.messages import Pairs, UploadHeader, decode, encode
from fedmodels.secagg.primitives import Secret
from simulations import federation as simulated


@pytest.fixture(autouse=True)
def _uploads_are_kept_and_chance_is_ruled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = simulated._policy
    monkeypatch.setattr(checks, "SIGNIFICANCE", 1e-6)
    monkeypatch.setattr(simulated, "_policy", lambda study: policy(study).replace("megabytes = 0", "megabytes = 1"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """After a set-up, two rounds and an evaluation."""
    coordinator = Coordinator(sites_of(tmp_path, *DISTRIBUTED))
    first = coordinator.sites[0]
    for request in (coordinator.request(), coordinator.request(round_=2), coordinator.request("evaluate")):
        first.handle(request, coordinator.model)
    return first


def wrong(site: SiteFolder) -> set[str]:
    return set(examine(SiteFolder(site.directory)).wrong)


def rewrite(site: SiteFolder, change: Callable[[list[Line]], list[Line]]) -> None:
    """Edit the log and make its chain whole again."""
    data, previous = b"", ""
    for line in change([line for line, _ in site.sent.lines()]):
        encoded = msgspec.json.encode(msgspec.structs.replace(line, previous=previous))
        data, previous = data + encoded + b"\n", line_hash(encoded)
    site.sent.path.write_bytes(data)


def resend(site: SiteFolder, number: int, reply: bytes, vector: np.ndarray | None) -> None:
    """Put another message in the place of line `number` (from 0), bytes and line and all."""
    old = [line for line, _ in site.sent.lines()][number]
    message = Message(reply, vector)
    suffix = ".upload" if vector is not None else ""
    (site.sent.kept / (message.sha256 + suffix)).write_bytes(reply + (b"" if vector is None else vector.tobytes()))
    new = msgspec.structs.replace(old, sha256=message.sha256, bytes=message.size)
    rewrite(site, lambda lines: [new if at == number else line for at, line in enumerate(lines)])


def kept(site: SiteFolder, number: int) -> tuple[wire.Reply, np.ndarray]:
    line = [line for line, _ in site.sent.lines()][number]
    (path,) = site.sent.kept.glob(f"{line.sha256}*")
    reply, rest = wire.split_reply(path.read_bytes())
    return reply, np.frombuffer(rest, np.uint32)


def relabel(site: SiteFolder, number: int, **changes: object) -> None:
    """The same vector under another header, with a checksum that fits."""
    reply, vector = kept(site, number)
    assert isinstance(reply, wire.ContributeReply)
    header = msgspec.structs.replace(decode(reply.header, UploadHeader), **changes)
    proof = keystream.checksum(header.session_digest, header.sender, vector)
    header = msgspec.structs.replace(header, checksum=proof)
    resend(site, number, wire.encode(msgspec.structs.replace(reply, header=encode(header))), vector)


def recharge(site: SiteFolder, change: Callable[[list[Charge]], list[Charge]]) -> None:
    """Write the ledger anew, signed by the hospital itself."""
    charges = change(site.ledger.charges())
    site.ledger_path.unlink()
    site.ledger_path.with_suffix(".head").unlink()
    ledger = Ledger(site.ledger_path, site.identity)
    for charge in charges:
        ledger.append(charge)


def edit_row(column: str, value: object) -> Callable[[Site], None]:
    def edit(site: Site) -> None:
        with closing(sqlite3.connect(site.ledger_path)) as database, database:
            database.execute(f"UPDATE ledger SET {column} = ? WHERE number = 2", (value,))

    return edit


def changed(charge: Charge, **changes: object) -> Charge:
    return msgspec.structs.replace(charge, **changes)


def test_an_honest_site_is_in_order_and_every_check_says_what_it_examined(site: Site) -> None:
    found = examine(SiteFolder(site.directory))
    assert found.wrong == []
    assert {check.verdict for check in found.checks} == {"right"}
    assert (found.messages, found.uploads, found.kept, found.charges) == (4, 3, 3, 3)
    examined = {check.check: check.examined for check in found.checks}
    assert examined["releases"] == "3 uploads, 3 charges, 0 of them unused"
    assert examined["uniform"] == "3 of 3 uploads"
    assert examined["fresh masks"].startswith("1 of 3 uploads (")
    assert examined["one roster"] == "3 sessions, 1 set-up key, 0 times unmasked"


RECOVER = (*DISTRIBUTED, "federation.on_dropout=recover", "privacy.max_colluding=0")


@pytest.mark.parametrize("settings", [DISTRIBUTED, RECOVER])
def test_aborted_rounds_lost_replies_and_dropouts_are_in_order(tmp_path: Path, settings: tuple[str, ...]) -> None:
    result, _, federation = run(tmp_path, *settings, faults=lose(2, 2))
    assert result["dropouts"]
    found = [examine(SiteFolder(path)) for path in federation.sites]
    assert [one.wrong for one in found] == [[]] * 4
    unmasked = {check.examined for one in found for check in one.checks if check.check == "one roster"}
    assert any("0 times" not in examined for examined in unmasked) == (settings == RECOVER)


def test_an_answer_that_leaves_again_bit_for_bit_is_in_order(site: Site, tmp_path: Path) -> None:
    line = [line for line, _ in site.sent.lines()][-1]
    rewrite(site, lambda lines: [*lines, line])
    assert wrong(site) == set()


# --- tampering ---------------------------------------------------------------------------------------------------


def flip_a_byte(site: Site) -> None:
    line = [line for line, _ in site.sent.lines()][1]
    path = site.sent.kept / f"{line.sha256}.upload"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


def edit_a_line(site: Site) -> None:
    site.sent.path.write_bytes(site.sent.path.read_bytes().replace(b'"kind":"setup"', b'"kind":"unmask"'))


def remove_a_line(site: Site) -> None:
    lines = site.sent.path.read_bytes().splitlines(keepends=True)
    site.sent.path.write_bytes(b"".join([lines[0], *lines[2:]]))


def remove_the_last_row(site: Site) -> None:
    with closing(sqlite3.connect(site.ledger_path)) as database, database:
        database.execute("DELETE FROM ledger WHERE number = 3")
    head = site.ledger_path.with_suffix(".head").read_bytes()
    assert int.from_bytes(head[:8], "big") == 3


def second_upload(site: Site) -> None:
    """Two different vectors for one charge."""
    reply, vector = kept(site, 1)
    site.sent.record(Context("", "", "train", bytes(16).hex(), 1), Message(wire.encode(reply), vector + np.uint32(1)))


def go_back(site: Site) -> None:
    rewrite(site, lambda lines: [lines[0], lines[2], lines[1], lines[3]])


def charge_backwards(site: Site) -> None:
    recharge(site, lambda charges: [charges[1], charges[0], charges[2]])


def other_terms_for_one_session(site: Site) -> None:
    """Charged for a request of all hospitals and for one of three, and uploaded once."""
    recharge(site, lambda charges: [changed(charges[0], contributors=charges[0].contributors[:3]), *charges])


def other_roster_in_one_run(site: Site) -> None:
    recharge(site, lambda charges: [charges[0], changed(charges[1], roster_digest=bytes(32)), charges[2]])


def sums_of_one(site: Site) -> None:
    recharge(site, lambda charges: [changed(charge, contributors=(site.name,)) for charge in charges])


def cheaper_charge(site: Site) -> None:
    recharge(site, lambda charges: [changed(charge, noise_multiplier=99.0) for charge in charges])


def one_digest_for_two_sessions(site: Site) -> None:
    reply, _ = kept(site, 1)
    assert isinstance(reply, wire.ContributeReply)
    relabel(site, 2, session_digest=decode(reply.header, UploadHeader).session_digest)


def head_of_another_row(site: Site) -> None:
    first, _ = kept(site, 1)
    second, vector = kept(site, 2)
    resend(site, 2, wire.encode(msgspec.structs.replace(second, head=first.head)), vector)  # type: ignore[union-attr]


def forged_head(site: Site) -> None:
    reply, vector = kept(site, 2)
    assert isinstance(reply, wire.ContributeReply)
    resend(site, 2, wire.encode(msgspec.structs.replace(reply, head=reply.head[:32] + bytes(64))), vector)


def other_setup_key(site: Site) -> None:
    """Signed by this hospital, for another run."""
    reply, _ = kept(site, 0)
    terms = wire.terms(site.study, site.roster, bytes([1] * 16))
    _, announced = secagg.begin_setup(terms, site.name, site.identity, lambda size: bytes([7] * size))
    resend(site, 0, wire.encode(msgspec.structs.replace(reply, key_message=announced)), None)


def damaged_vector(site: Site) -> None:
    """Another vector of random words under the old header."""
    reply, vector = kept(site, 2)
    resend(site, 2, wire.encode(reply), np.random.default_rng(0).integers(2**32, size=vector.size, dtype=np.uint32))


def unreadable(site: Site) -> None:
    resend(site, 2, b"\xc1", np.zeros(3, np.uint32))


TAMPERING: dict[str, tuple[Callable[[Site], None], set[str]]] = {
    "a byte of a kept upload": (flip_a_byte, {"bytes"}),
    "a line edited": (edit_a_line, {"log"}),
    "a line removed": (remove_a_line, {"log"}),
    "a row edited": (edit_row("charge", b"\x80"), {"ledger"}),
    "a row signed by somebody else": (edit_row("signature", bytes(64)), {"ledger"}),
    "the last row removed": (remove_the_last_row, {"ledger"}),
    "two uploads for one charge": (second_upload, {"releases", "sessions"}),
    "a session that goes back": (go_back, {"sessions"}),
    "charges that go back": (charge_backwards, {"sessions", "headers"}),
    "a session under two lists of contributors": (other_terms_for_one_session, {"one roster", "headers"}),
    "a run under two rosters": (other_roster_in_one_run, {"one roster", "headers"}),
    "a sum over one hospital": (sums_of_one, {"one roster", "headers"}),
    "a charge that is too low": (cheaper_charge, {"mechanism", "headers"}),
    "two sessions with the same masks": (one_digest_for_two_sessions, {"one roster"}),
    "the head of another row": (head_of_another_row, {"headers"}),
    "a head that nobody signed": (forged_head, {"headers"}),
    "a key signed for other terms": (other_setup_key, {"one roster"}),
    "another sender": (lambda site: relabel(site, 2, sender="hospital-02"), {"headers"}),
    "another session": (lambda site: relabel(site, 2, session=9), {"headers"}),
    "another vector under a header": (damaged_vector, {"headers"}),
    "a message that nobody can read": (unreadable, {"headers"}),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found_by_the_check_that_is_meant_for_it(site: Site, how: str) -> None:
    """And by no check that has nothing to do with it."""
    assert wrong(site) == set()
    tamper, found_by = TAMPERING[how]
    tamper(site)
    assert wrong(site) == found_by


@pytest.mark.parametrize("settings", [(), DISTRIBUTED, ("privacy.mode=none",)])
def test_uploads_without_masks_are_found(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """The product with masks removed: bytes, charges, heads and checksums are all in order."""
    with mock.patch.object(contributor, "pair_seeds", return_value={}):
        first = Coordinator(sites_of(tmp_path, *settings))
        for request in (first.request(), first.request(round_=2), first.request("evaluate")):
            first.sites[0].handle(request, first.model)
    assert wrong(first.sites[0]) == {"uniform", "fresh masks"}


def test_masks_that_are_used_twice_are_found(tmp_path: Path) -> None:
    """Each vector alone looks random."""

    def constant(current: secagg.Ready, asked: secagg.SessionRequest, binding: bytes) -> dict[str, Secret]:
        return {peer: Secret(bytes([9] * 32)) for peer in asked.contributors[1:2]}

    with mock.patch.object(contributor, "pair_seeds", constant):
        first = Coordinator(sites_of(tmp_path, *DISTRIBUTED))
        for number in (1, 2):
            first.sites[0].handle(first.request(round_=number), first.model)
    assert wrong(first.sites[0]) == {"fresh masks"}


def test_unmasking_for_two_lists_of_dropouts_is_found(tmp_path: Path) -> None:
    """As a hospital would that forgot, after a restart, who had dropped out."""
    _, _, federation = run(tmp_path, *RECOVER, faults=lose(2, 2))
    site = next(
        Site(path) for path in federation.sites
        if any(isinstance(m.reply, wire.UnmaskReply) and _dropped(m.reply) for m in read(SiteFolder(path).sent))
    )  # fmt: skip
    pairs = next(m for m in read(site.sent) if isinstance(m.reply, wire.UnmaskReply) and _dropped(m.reply))
    assert isinstance(pairs.reply, wire.UnmaskReply)
    told = decode(pairs.reply.message, Pairs)
    other = next(name for name in site.roster.sizes if name not in (*told.dropped, site.name))
    lie = wire.encode(wire.UnmaskReply(encode(msgspec.structs.replace(told, dropped=(other,)))))
    site.sent.record(Context("", "", "unmask", pairs.line.run), Message(lie))
    assert wrong(site) == {"one roster"}


def _dropped(reply: wire.UnmaskReply) -> bool:
    try:
        return bool(decode(reply.message, Pairs).dropped)
    except RemoteProtocolError:
        return False


# --- what was not kept, and the statistic ------------------------------------------------------------------------


def test_what_is_not_kept_is_counted_and_not_called_right(site: Site) -> None:
    for path in site.sent.kept.glob("*.upload"):
        path.unlink()
    found = examine(SiteFolder(site.directory))
    verdicts = {check.check: check.verdict for check in found.checks}
    assert found.wrong == []
    assert (found.kept, verdicts["uniform"], verdicts["fresh masks"]) == (0, "not examined", "not examined")
    assert next(check for check in found.checks if check.check == "bytes").examined.startswith("1 of 4 messages (keep")


def test_false_alarms_are_as_rare_as_promised() -> None:
    """At 1% for each of the tests of many vectors, of every length, three standard errors allowed."""
    draw = np.random.default_rng(1)
    found = [p for size in (FEWEST_WORDS, 100, 3000, 6000) for _ in range(300)
             for p in chances(draw.integers(2**32, size=size, dtype=np.uint32))]  # fmt: skip
    assert len(found) == 4 * 300 * TESTS
    assert sum(p < 0.01 for p in found) <= binom.ppf(0.9987, len(found), 0.01)
    assert chances(np.zeros(FEWEST_WORDS - 1, np.uint32)) == ()


@pytest.mark.parametrize("size", [FEWEST_WORDS, 1000, 20_000])
def test_small_numbers_of_either_sign_are_not_random(size: int) -> None:
    raw = np.random.default_rng(2).normal(scale=2.0**27, size=size).astype(np.int32).view(np.uint32)
    assert min(chances(raw)) < 1e-6


@pytest.mark.parametrize("reply", [
    wire.SetupReply("a", b"k" * 300, b"h"), wire.ContributeReply(b"x" * 70_000), wire.UnmaskReply(b""),
    wire.PresenceReply("hospital-" + "n" * 40, bytes(64)), wire.Refusal("busy"),
])  # fmt: skip
def test_a_reply_is_told_from_the_bytes_behind_it(reply: wire.Reply) -> None:
    for rest in (b"", b"\x83abc" * 9):
        found, behind = wire.split_reply(wire.encode(reply) + rest)
        assert (found, bytes(behind)) == (reply, rest)


@pytest.mark.parametrize("data", [b"", b"\x83", b"\x81\xa4type", b"\xc1abc", wire.encode(wire.Refusal("busy"))[:-1]])
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.split_reply(data)


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_writes_json_and_ends_with_1_where_something_is_wrong(site: Site) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["audit", "transcript", *arguments])
        return done.exit_code, done.output

    out = site.directory.parent / "audit"
    code, said = call(str(site.directory), "--out", str(out))
    assert (code, "Nothing is wrong" in said) == (0, True)
    written = json.loads((out / "transcript.json").read_text())
    assert len(read_folder(site.directory.parent).transcripts) == 1
    assert (written["hospital"], written["wrong"], written["kept"]) == (site.name, [], 3)
    assert [check["check"] for check in written["checks"]] == [c.check for c in examine(site).checks]
    go_back(site)
    code, said = call(str(site.directory), "--json")
    assert (code, json.loads(said)["wrong"]) == (1, ["sessions"])
    code, said = call(str(site.directory))
    assert code == 1
    assert "sessions: line 3: an upload for session 1 after one for session 2" in said


def test_wrong_use_is_told(tmp_path: Path, site: Site) -> None:
    invoke = CliRunner().invoke
    assert "not a hospital's site directory" in str(invoke(app, ["audit", "transcript", str(tmp_path)]).exception)
    full = invoke(app, ["audit", "transcript", str(site.directory), "--out", str(site.directory)])
    assert "not empty" in str(full.exception)
