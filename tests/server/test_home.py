"""The coordinator's directory: keys and certificates, the roster from cards, one process at a time."""

import os
import ssl
import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from fedmodels.cli import app
from fedmodels.errors import FedmodelsError, FileError, RunError, UsageError
from fedmodels.joining import card_fingerprint, parse_invitation
from fedmodels.study import Hospital
from server.home import Home, Settings
from server.pki import utc_now


def home_in(path: Path, address: str = "fl.example.org:9443") -> Home:
    return Home.create(path, Settings("north", address))


def card(name: str, size: int = 100) -> Hospital:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return Hospital(name, os.urandom(32).hex(), size, key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


def test_secrets_are_readable_by_this_user_only(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    for path in (home.pki.ca_key, home.pki.server_key, home.secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert len(home.secret.read_bytes()) == 32


def test_the_server_certificate_is_for_the_address_and_comes_from_the_ca(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    authority = x509.load_pem_x509_certificate(home.pki.ca.read_bytes())
    server = x509.load_pem_x509_certificate(home.pki.server.read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    context = ssl.create_default_context(cafile=str(home.pki.ca))
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("address", "expected"), [("10.1.2.3:9443", ["10.1.2.3", "127.0.0.1"]), ("[::1]:9443", ["127.0.0.1", "::1"])]
)
def test_an_address_in_numbers_is_in_the_certificate(tmp_path: Path, address: str, expected: list[str]) -> None:
    server = x509.load_pem_x509_certificate(home_in(tmp_path / "c", address).pki.server.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == expected


def test_a_certificate_is_renewed_in_its_last_month_from_the_same_ca(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    before, authority = home.pki.server.read_bytes(), home.pki.ca.read_bytes()
    assert not home.pki.renew("fl.example.org", utc_now())
    assert home.pki.server.read_bytes() == before
    assert home.pki.renew("fl.example.org", utc_now() + timedelta(days=370))
    assert home.pki.server.read_bytes() != before
    assert home.pki.ca.read_bytes() == authority


def test_the_invitation_names_address_and_ca(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    invitation = parse_invitation(home.invitation.read_text())
    assert (invitation.name, invitation.address) == ("north", "fl.example.org:9443")
    assert invitation.certificate == home.pki.ca.read_text()
    other = parse_invitation(home_in(tmp_path / "d").invitation.read_text())
    assert other.fingerprint != invitation.fingerprint


def test_an_invitation_without_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not a PEM certificate"):
        parse_invitation(tomli_w.dumps({"name": "north", "address": "a:1", "certificate": "nothing"}))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    key = home.pki.ca_key.read_bytes()
    with pytest.raises(UsageError, match="coordinator in this folder already"):
        home_in(tmp_path / "c")
    assert home.pki.ca_key.read_bytes() == key


@pytest.mark.parametrize("address", ["fl.example.org", "fl.example.org:0", ":9443", "fl.example.org:99999", "a b:1"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    result = CliRunner().invoke(app, ["server", "init", str(tmp_path / "c"), "--name", "north", "--address", address])
    assert isinstance(result.exception, FedmodelsError)
    assert "host:port" in result.exception.fix
    assert not (tmp_path / "c").exists()


def test_cards_make_the_roster_in_order_of_name(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    cards = [card("b"), card("a")]
    for each in cards:
        home.add_hospital(each)
    assert home.hospitals == (cards[1], cards[0])
    home.add_hospital(msgspec.structs.replace(cards[0], declared_size=200))
    assert [h.declared_size for h in home.hospitals] == [100, 200]
    home.remove_hospital("a")
    assert [h.name for h in home.hospitals] == ["b"]
    home.remove_hospital("b")
    assert home.hospitals == ()


def test_a_hospital_is_not_replaced_by_another_with_its_name(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    home.add_hospital(card("a"))
    before = home.roster_file.read_bytes()
    with pytest.raises(UsageError, match="other keys"):
        home.add_hospital(card("a"))
    with pytest.raises(UsageError, match="not on the roster"):
        home.remove_hospital("b")
    with pytest.raises(UsageError, match="no node key"):
        home.add_hospital(msgspec.structs.replace(card("c"), node_key=""))
    copied = msgspec.structs.replace(home.hospitals[0], name="copy")
    with pytest.raises(FileError, match="same identity_key"):
        home.add_hospital(copied)
    assert home.roster_file.read_bytes() == before


def test_a_fingerprint_binds_name_and_keys_but_not_the_size() -> None:
    first = card("a")
    assert card_fingerprint(first) == card_fingerprint(msgspec.structs.replace(first, declared_size=7))
    for changed in ({"name": "b"}, {"identity_key": "0" * 64}, {"node_key": "x"}):
        assert card_fingerprint(first) != card_fingerprint(msgspec.structs.replace(first, **changed))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    assert home.holder("run") is None
    with home.hold("run"):
        assert home.holder("run") == os.getpid()
        assert home.holder("link") is None
        with pytest.raises(RunError, match="running already"), home.hold("run"):
            pass
    assert home.holder("run") is None


def test_commands_on_a_folder_without_a_coordinator_say_so(tmp_path: Path) -> None:
    file = tmp_path / "card.toml"
    file.write_text(tomli_w.dumps(msgspec.to_builtins(card("a"))))
    for command in (["status"], ["up"], ["stop"], ["roster", "add"]):
        arguments = ["server", *command, str(tmp_path), *([str(file)] if command[-1] == "add" else [])]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, UsageError), result.output
        assert "no coordinator in this folder" in result.exception.what
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.toml"]


def test_the_commands_of_the_roster(tmp_path: Path) -> None:
    home = home_in(tmp_path / "c")
    first = card("a")
    file = tmp_path / "card.toml"
    file.write_text(tomli_w.dumps(msgspec.to_builtins(first)))
    result = CliRunner().invoke(app, ["server", "roster", "add", str(tmp_path / "c"), str(file)])
    assert result.exit_code == 0, result.output
    assert card_fingerprint(first) in " ".join(result.output.split())
    assert home.hospitals == (first,)
    result = CliRunner().invoke(app, ["server", "status", str(tmp_path / "c"), "--json"])
    assert msgspec.json.decode(result.output) == {
        "name": "north", "address": "fl.example.org:9443", "link": False, "run": None,
        "hospitals": [{"name": "a", "connected": None}],
    }  # fmt: skip
