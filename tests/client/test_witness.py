"""Signed ledger heads: a restored ledger is found, others' heads are kept, and nobody can make one up."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federations import Coordinator, sites_of

import client.site
from client.site import Site
from client.witness import Witness
from fedmodels import wire
from fedmodels.errors import FedmodelsError, Refused, RemoteProtocolError
from fedmodels.joining import sign_head, verify_head

OTHER_RUN = b"another run id !"


def contribute(coordinator: Coordinator, site: Site, **heads: bytes) -> wire.ContributeReply:
    """One upload of `site` where the coordinator relays these heads, `hospital_01` for `hospital-01`."""
    asked = coordinator.request()
    request = wire.ContributeRequest(
        asked.run_id, "train", 1, asked.session, asked.relay, {name.replace("_", "-"): h for name, h in heads.items()}
    )
    reply, _ = Site(site.directory).handle(request, coordinator.model)
    assert isinstance(reply, wire.ContributeReply)
    return reply


def set_up(site: Site, heads: dict[str, bytes], run: bytes = OTHER_RUN) -> wire.SetupReply:
    reply, _ = Site(site.directory).handle(wire.SetupRequest(run, site.study.digest, site.roster.digest, heads), None)
    assert isinstance(reply, wire.SetupReply)
    return reply


def snapshot(site: Site) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in site.directory.rglob("*") if p.is_file() and p.name != ".lock"}


def test_every_upload_carries_the_signed_hash_of_the_row_that_it_was_charged_to(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    heads = [contribute(coordinator, site).head for _ in range(2)]
    rows = site.ledger.chain().hashes
    assert [verify_head(site.roster.keys[site.name], head) for head in heads] == list(rows)
    assert set_up(site, {}).head == heads[-1]


def test_restoring_an_old_copy_of_ledger_and_head_is_found_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: without the comparison the old copy is taken for the ledger."""
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    contribute(coordinator, site)
    files = [site.directory / name for name in ("ledger.sqlite", "ledger.head")]
    for file in files:
        shutil.copy(file, tmp_path / file.name)
    last = contribute(coordinator, site).head
    for file in files:
        shutil.copy(tmp_path / file.name, file)
    before = snapshot(site)
    for ask in (
        lambda: contribute(coordinator, site, hospital_01=last),
        lambda: set_up(site, {"hospital-01": last}),
    ):
        with pytest.raises(Refused, match="older than what was released") as caught:
            ask()
        assert caught.value.rule == "ledger-restored"
    assert snapshot(site) == before
    monkeypatch.setattr(client.site, "check_heads", lambda *_: None)
    contribute(coordinator, site, hospital_01=last)


def test_a_ledger_that_was_thrown_away_is_found(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    last = contribute(coordinator, site).head
    for name in ("ledger.sqlite", "ledger.head"):
        (site.directory / name).unlink()
    with pytest.raises(Refused) as caught:
        set_up(site, {"hospital-01": last})
    assert caught.value.rule == "ledger-restored"


def test_an_older_head_of_ones_own_is_fine(tmp_path: Path) -> None:
    """The last answer of a hospital may have been lost on its way to the coordinator."""
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    first = contribute(coordinator, site).head
    contribute(coordinator, site, hospital_01=first)
    contribute(coordinator, site, hospital_01=first, hospital_02=b"")


def test_the_heads_of_the_others_are_kept_and_the_newest_is_the_last_one_that_is_new(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    one, two = coordinator.sites[:2]
    heads = [contribute(coordinator, two).head for _ in range(2)]
    for head in (*heads, heads[0]):  # a coordinator that relays an old one again makes nobody forget
        contribute(coordinator, one, hospital_02=head)
    (held,) = one.witness.newest()
    assert (held.hospital, held.head) == ("hospital-02", heads[1])


@pytest.mark.parametrize("forged", ["another key", "another row", "cut short", "stranger"])
def test_a_head_that_its_hospital_did_not_sign_is_refused_and_nothing_changes(tmp_path: Path, forged: str) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    head = contribute(coordinator, coordinator.sites[1]).head
    heads = {
        "another key": {"hospital-02": sign_head(Ed25519PrivateKey.generate(), bytes(32))},
        "another row": {"hospital-02": bytes(32) + head[32:]},
        "cut short": {"hospital-02": head[:-1]},
        "stranger": {"hospital-09": head},
    }[forged]
    before = snapshot(site)
    with pytest.raises(RemoteProtocolError, match="head"):
        set_up(site, heads)
    assert snapshot(site) == before


def test_a_coordinator_cannot_accuse_a_hospital_with_a_head_of_another_one(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, other = coordinator.sites[:2]
    head = contribute(coordinator, other).head
    with pytest.raises(RemoteProtocolError):
        set_up(site, {"hospital-01": head})


def test_a_repeated_request_gets_the_same_head(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, request = coordinator.sites[0], coordinator.request()
    one, _ = site.handle(request, coordinator.model)
    other = Coordinator(coordinator.sites, OTHER_RUN)  # a second run, whose upload moves the ledger on
    site.handle(other.request(), other.model)
    two, _ = Site(site.directory).handle(request, coordinator.model)
    assert one == two


def test_a_damaged_witness_file_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "witness.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 10)
    with pytest.raises(FedmodelsError, match="heads of other hospitals"):
        Witness(path).newest()
