"""A site directory and what its people approved: keys, cards, and pins that hold to the byte."""

import getpass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from federations import Coordinator, sites_of
from invitations import invitation

from client import approval
from client.folder import SiteFolder, create_site
from client.keys import node_public_of
from client.site import Site
from fedmodels import wire
from fedmodels.errors import FedmodelsError, Refused, UsageError
from fedmodels.joining import parse_card

NAMES = ("study.toml", "roster.toml", "record.json")


def set_up(site: Site) -> None:
    """Ask for what `site` had approved when it was made, whatever its files hold now."""
    request = wire.SetupRequest(b"another run id !", site.study.digest, site.roster.digest)
    Site(site.directory).handle(request, None)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = sites_of(tmp_path)[0]
    set_up(made)
    return made


def refused(site: Site) -> str:
    with pytest.raises(Refused) as caught:
        set_up(site)
    return caught.value.rule


@pytest.mark.parametrize("name", ["study.toml", "roster.toml"])
@pytest.mark.parametrize("change", [b"\n", b"# a comment, which leaves the canonical digest as it is\n", b"x = 1\n"])
def test_a_file_that_changed_by_one_byte_must_be_approved_again(site: Site, name: str, change: bytes) -> None:
    path = site.directory / "approved" / name
    path.write_bytes(path.read_bytes() + change)
    assert refused(site) == "approval-changed"


def test_it_may_be_approved_again_as_it_is_now(site: Site) -> None:
    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    site.approve(study + b"# seen\n", roster)
    set_up(site)


@pytest.mark.parametrize("name", NAMES)
def test_without_all_three_files_nothing_is_approved(site: Site, name: str) -> None:
    (site.directory / "approved" / name).unlink()
    assert refused(site) == "study-not-approved"


def test_a_record_that_cannot_be_read_approves_nothing(site: Site) -> None:
    (site.directory / "approved" / "record.json").write_text("{}")
    assert refused(site) == "approval-changed"


@pytest.mark.parametrize("stops_after", [1, 2])
def test_an_approval_that_a_crash_interrupts_approves_nothing(
    site: Site, stops_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def crash(path: Path, data: bytes) -> None:
        if len(written) == stops_after:
            raise KeyboardInterrupt
        written.append(path)
        path.write_bytes(data)

    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    monkeypatch.setattr(approval, "write_synced", crash)
    with pytest.raises(KeyboardInterrupt):
        site.approve(study + b"\n", roster + b"\n")
    assert refused(site) == "approval-changed"


def test_the_record_says_who_approved_what_when_under_which_policy(site: Site) -> None:
    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    SiteFolder(site.directory, lambda: datetime(2026, 5, 4, tzinfo=UTC)).approve(study, roster)
    record = SiteFolder(site.directory).approved.record
    assert (record.by, record.time) == (getpass.getuser(), "2026-05-04T00:00:00+00:00")
    assert record.policy == approval.sha256((site.directory / "policy.toml").read_bytes())
    assert (record.study, record.coordinator) == (approval.sha256(study), "")


def test_another_coordinator_must_be_approved_again(site: Site) -> None:
    (site.directory / "invitation.toml").write_text(invitation("north"))
    assert refused(site) == "approval-changed"
    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    SiteFolder(site.directory).approve(study, roster)
    set_up(site)
    (site.directory / "invitation.toml").write_text(invitation("north"))  # the same name, another key
    assert refused(site) == "approval-changed"


def test_an_approval_waits_for_the_request_that_is_worked_on(tmp_path: Path) -> None:
    site = Coordinator(sites_of(tmp_path)).sites[0]
    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    with site.locked(), pytest.raises(Refused) as caught:
        SiteFolder(site.directory).approve(study, roster)
    assert caught.value.rule == "busy"


@pytest.mark.parametrize("key", ["identity.key", "node.key"])
def test_a_roster_with_another_key_of_this_hospital_is_not_approved(site: Site, tmp_path: Path, key: str) -> None:
    create_site(tmp_path / "other", site.name)
    (site.directory / key).write_bytes((tmp_path / "other" / key).read_bytes())
    study, roster = ((site.directory / "approved" / name).read_bytes() for name in NAMES[:2])
    with pytest.raises(UsageError, match="own keys"):
        SiteFolder(site.directory).approve(study, roster)


def test_the_keys_are_made_where_they_are_used_and_a_card_holds_no_private_one(tmp_path: Path) -> None:
    create_site(tmp_path / "a", "a")
    card = SiteFolder(tmp_path / "a").card(300)
    for name in ("identity.key", "node.key"):
        assert (tmp_path / "a" / name).stat().st_mode & 0o777 == 0o600
    load_ssh_public_key(card.node_key.encode())
    assert card.node_key.startswith("ecdsa-sha2-nistp384 ")
    assert len(card.node_key.split()) == 2
    assert parse_card("\n".join(f"{k} = {v!r}" for k, v in msgspec.to_builtins(card).items())) == card
    private = (tmp_path / "a" / "identity.key").read_bytes()
    assert private.hex() not in str(card)


@pytest.mark.parametrize("content", [None, b"", b"not a key"])
def test_a_node_key_that_is_none_is_a_named_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "node.key").write_bytes(content)
    with pytest.raises(FedmodelsError, match="no usable node key"):
        node_public_of(tmp_path)
