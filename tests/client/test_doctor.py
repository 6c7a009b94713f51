"""`client doctor`: every check says what is wrong and what to do; `client up` starts only what can work."""

import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import tomli_w
from federations import sites_of
from invitations import Authority, authority, invitation
from typer.testing import CliRunner

import client.commands.up
from client.coordinator_check import Check, reach
from client.doctor import ALL, CHEAP, examine
from client.folder import SiteFolder
from client.node import NodeOptions
from client.site import Site
from fedmodels import wire
from fedmodels.cli import app
from fedmodels.errors import FedmodelsError
from fedmodels.joining import parse_invitation


@contextmanager
def listening(keys: Authority, folder: Path, ahead: float = 0.0) -> Iterator[str]:
    """A coordinator that answers 404 to everything, with a clock that many seconds ahead; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def date_time_string(self, timestamp: float | None = None) -> str:
            now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead)
            return now.strftime("%a, %d %b %Y %H:%M:%S GMT")

        def log_message(self, *_: object) -> None:
            pass

    pem = folder / "server.pem"
    pem.write_text(keys.certificate + keys.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def keys() -> Authority:
    return authority(90)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Ready but for the network: the folder of a hospital that was connected, with its card, before it approved."""
    made = sites_of(tmp_path)[0]
    folder = made.directory
    (folder / "invitation.toml").write_text(invitation("north-star"))
    card = made.card(48)
    (folder / "card.toml").write_text(tomli_w.dumps(msgspec.to_builtins(card)))
    (folder / "policy.toml").write_text("min_patients = 40\nkeep_sent_megabytes = 1\n")
    study, roster = ((folder / "approved" / name).read_bytes() for name in ("study.toml", "roster.toml"))
    SiteFolder(folder).approve(study, roster)
    return Site(folder)


def states(site: Site) -> dict[str, Check]:
    """By what was looked at, everything but the network."""
    checks = {name: check for name, check in ALL.items() if name != "network"}
    return {check.what: check for check in examine(Site(site.directory), checks)}


def bad(site: Site) -> list[tuple[str, str]]:
    return [(check.what, check.state) for check in states(site).values() if check.state != "ok"]


def test_a_hospital_that_is_ready_has_no_failed_check(site: Site) -> None:
    found = states(site)
    assert {check.what: check.state for check in found.values() if check.what != "classes"} == dict.fromkeys(
        (
            "keys",
            "policy",
            "coordinator",
            "approval",
            "disk",
            "versions",
            "device",
            "data",
            "data check",
            "ledger",
            "log",
        ),
        "ok",
    )
    assert found["classes"].state == "warn"  # some forty patients in two classes
    assert "fewer than `min_patients`" in found["classes"].do


def test_a_device_that_is_not_there_is_found_before_a_round(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(site)["device"].found == "models are trained on the CPU"
    monkeypatch.setenv("FEDMODELS_DEVICE", "cuda:99")
    found = states(site)["device"]
    assert found.state == "fail"
    assert "no `cuda:99`" in found.found


def _rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    ("what", "change", "says"),
    [
        ("keys", lambda f: (f / "identity.key").chmod(0o644), "can be read by others"),
        ("keys", lambda f: (f / "node.key").unlink(), "no usable node key"),
        ("keys", lambda f: (f / "card.toml").unlink(), "no such file"),
        ("keys", _rewrite("card.toml", "hospital-01", "hospital-02"), "not the card of these keys"),
        ("policy", lambda f: (f / "policy.toml").write_text("modus = 1"), "unknown key"),
        ("coordinator", lambda f: (f / "invitation.toml").unlink(), "not connected"),
        ("approval", lambda f: (f / "approved" / "study.toml").unlink(), "no study is approved"),
        ("approval", _rewrite("approved/roster.toml", "declared_size = ", "declared_size =  "), "byte for byte"),
        ("approval", _rewrite("policy.toml", "min_patients", "min_roster = 9\nmin_patients"), "refuses it now"),
        ("data", lambda f: (f / "data.toml").unlink(), "no such file"),
        ("data", _rewrite("policy.toml", "= 40", "= 400"), "`min_patients` is 400"),
        ("log", lambda f: (f / "log.jsonl").write_bytes(b'{"x": 1}\n'), "cannot be read"),
    ],
)  # fmt: skip
def test_each_fault_is_found_and_comes_with_what_to_do(
    site: Site, what: str, change: Callable[[Path], None], says: str
) -> None:
    change(site.directory)
    found = [check for check in examine(Site(site.directory), ALL) if check.state == "fail" and check.what != "network"]
    assert says in " ".join(check.found for check in found)
    assert what in [check.what for check in found]
    assert all(check.do for check in found)


def test_doctor_prints_counts_and_no_patient(site: Site) -> None:
    said = json.dumps([check.found + check.do for check in states(site).values()])
    table = site.directory.parents[1] / "cohort" / "hospital-01" / "table.csv"
    names = {line.split(",")[0] for line in table.read_text().splitlines()[1:]}
    assert len(names) == 60
    assert not [name for name in names if name in said]
    assert "training patients: healthy" in said


def test_faults_of_the_records_are_told_in_a_few_lines_with_the_command_that_tells_all(site: Site) -> None:
    table = site.directory.parents[1] / "cohort" / "hospital-01" / "table.csv"
    head, *rows = table.read_text().splitlines()
    copies = [f"copy-{number},{row.partition(',')[2]}" for number, row in enumerate(rows)]
    table.write_text("\n".join([head, *rows, *copies]) + "\n")
    told = {check.what: check for check in states(site).values() if check.what.startswith("data")}
    assert told["data: duplicates"].state == "warn"
    assert 3 <= len(told) <= 5
    assert "approved/study.toml" in told["data check"].do
    said = json.dumps([check.found + check.do for check in told.values()])
    assert "copy-" not in said
    assert rows[0].split(",")[0] not in said


def test_what_was_noted_about_the_data_is_passed_on(site: Site) -> None:
    table = site.directory.parents[1] / "cohort" / "hospital-01" / "table.csv"
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    age = header.index("age")
    days = [[*row[:age], str(365 * float(row[age] or 50)), *row[age + 1 :]] for row in rows]
    table.write_text("".join(",".join(row) + "\n" for row in [header, *days]))
    note = states(site)["data: reading"]
    assert note.state == "warn"
    assert note.found.startswith("`age`: 60 of 60 values lie outside the study's range 0 to 120: check the unit")


def test_a_wrong_version_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.doctor.importlib.metadata.version", lambda name: "1.40.0")
    assert ("versions", "fail") in bad(site)


@pytest.mark.parametrize(("free", "state"), [(50 * 10**6, "fail"), (500 * 10**6, "warn"), (10**10, "ok")])
def test_a_disk_without_room_is_found(site: Site, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    class Usage:
        pass

    usage = Usage()
    usage.free = free  # type: ignore[attr-defined]
    monkeypatch.setattr("client.doctor.shutil.disk_usage", lambda _: usage)
    assert states(site)["disk"].state == state


def test_a_folder_that_cannot_be_written_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(site.directory))

    monkeypatch.setattr("client.doctor.write_synced", full)
    assert "No space left" in states(site)["disk"].found


def _reach(address: str, keys: Authority) -> dict[str, Check]:
    return {check.what: check for check in reach(parse_invitation(invitation("north-star", address, keys.ca)))}


@pytest.mark.parametrize(
    ("ahead", "state"), [(0.0, "ok"), (-4.0, "warn"), (-8.0, "fail"), (100.0, "warn"), (400.0, "fail")]
)
def test_network_and_clock_are_checked_against_the_coordinator(
    keys: Authority, tmp_path: Path, ahead: float, state: str
) -> None:
    with listening(keys, tmp_path, ahead) as address:
        found = _reach(address, keys)
    assert (found["network"].state, found["clock"].state) == ("ok", state)
    assert "TLS" not in found


def test_a_certificate_that_ends_soon_is_told(tmp_path: Path) -> None:
    soon = authority(5)
    with listening(soon, tmp_path) as address:
        found = _reach(address, soon)
    assert (found["TLS"].state, found["network"].state) == ("warn", "ok")


def test_a_certificate_of_another_ca_or_an_expired_one_is_a_failure(keys: Authority, tmp_path: Path) -> None:
    with listening(authority(90), tmp_path) as address:
        assert "not to be trusted" in _reach(address, keys)["network"].found
    expired = authority(-1)
    with listening(expired, tmp_path) as address:
        assert "expired" in _reach(address, expired)["network"].found


@pytest.mark.parametrize(
    ("address", "says"), [("127.0.0.1:9", "nothing listens"), ("no-such-host.invalid:443", "not known")]
)
def test_a_coordinator_that_cannot_be_reached_is_told_apart(keys: Authority, address: str, says: str) -> None:
    assert says in _reach(address, keys)["network"].found


def test_the_command_exits_with_1_where_a_check_fails_and_0_where_none_does(
    site: Site, keys: Authority, tmp_path: Path
) -> None:
    command = ["client", "doctor", str(site.directory), "--json"]
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code == 1
    assert [check["what"] for check in json.loads(failed.output) if check["state"] == "fail"] == ["network"]
    with listening(keys, tmp_path) as address:
        (site.directory / "invitation.toml").write_text(invitation("north-star", address, keys.ca))
        study, roster = ((site.directory / "approved" / name).read_bytes() for name in ("study.toml", "roster.toml"))
        SiteFolder(site.directory).approve(study, roster)
        assert CliRunner().invoke(app, command).exit_code == 0
        table = CliRunner().invoke(app, command[:-1])
    assert (table.exit_code, "what to do" in table.output) == (0, True)


def test_up_starts_no_node_where_a_check_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(client.commands.up, "run_node", lambda *a: started.append(a))
    (site.directory / "approved" / "study.toml").write_text("changed")
    done = CliRunner().invoke(app, ["client", "up", str(site.directory)])
    assert isinstance(done.exception, FedmodelsError)
    assert (done.exception.exit_code, started) == (1, [])
    assert "not ready" in str(done.exception)


def test_up_runs_the_node_of_this_hospital_and_lets_out_what_the_log_lists_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[NodeOptions] = []
    monkeypatch.setattr(client.commands.up, "run_node", lambda options, stop: started.append(options))
    monkeypatch.setattr(client.commands.up.signal, "signal", lambda *_: None)
    done = CliRunner().invoke(app, ["client", "up", str(site.directory)])
    assert done.exit_code == 0, done.output
    (options,) = started
    assert (options.address, options.node_key) == ("127.0.0.1:9", site.directory / "node.key")
    assert options.site == site.directory
    refusal = wire.encode(site.refuse(ValueError("John Doe")))
    assert options.may_leave(refusal, None)
    assert not options.may_leave(refusal, b"more")
    assert set(CHEAP) == {"keys", "policy", "approval", "disk", "device"}
