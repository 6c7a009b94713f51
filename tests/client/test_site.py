"""A hospital's decisions: what it refuses, what it writes before anything leaves, what it never says."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from federations import DISTRIBUTED, RUN, Coordinator, sites_of

import client.site
from client.contribution import Task, update_vector
from client.folder import create_site
from client.ledger import Ledger
from client.runfiles import RunFiles
from client.sentlog import SentLog
from client.site import Site
from fedmodels import secagg, wire
from fedmodels.data.dataset import TRAIN
from fedmodels.data.load import load
from fedmodels.dp.plan import plan_for
from fedmodels.errors import DataError, FedmodelsError, ProtocolError, Refused, RunError, UsageError
from fedmodels.models.device import VARIABLE
from fedmodels.models.registry import build_model
from fedmodels.models.weights import flatten
from fedmodels.secagg.messages import SessionRequest, encode


def snapshot(site: Site) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in site.directory.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize(("on_dropout", "mask"), [("retry", "upload"), ("recover", "upload_recover")])
def test_the_charge_comes_before_training_and_the_state_before_anything_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_dropout: str, mask: str
) -> None:
    """Each step is spied upon, not replaced: a step that ran out of order would fail the ones after it as well."""
    coordinator = Coordinator(sites_of(tmp_path, f"federation.on_dropout={on_dropout}"))
    site, order = coordinator.sites[0], []

    def spy(target: object, name: str, label: str) -> None:
        real = getattr(target, name)
        monkeypatch.setattr(target, name, lambda *a, **k: (order.append(label), real(*a, **k))[1])

    spy(Ledger, "append", "charge")
    spy(client.site, "update_vector", "train")
    spy(secagg, mask, "mask")
    spy(RunFiles, "save", "state")
    spy(SentLog, "record", "log")
    site.handle(coordinator.request(), coordinator.model)
    assert order == ["charge", "train", "mask", "state", "log"]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_device_that_is_not_there_is_found_before_anything_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, request = coordinator.sites[0], coordinator.request(kind)
    monkeypatch.setenv(VARIABLE, "cuda:99")
    with pytest.raises(UsageError, match="CUDA devices"):
        site.handle(request, coordinator.model)
    assert not site.ledger.charges()
    monkeypatch.delenv(VARIABLE)
    site.handle(request, coordinator.model)
    assert len(site.ledger.charges()) == 1


def test_every_upload_is_charged_and_logged_with_its_digest(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    reply, vector = site.handle(coordinator.request(), coordinator.model)
    _, counts = site.handle(coordinator.request("evaluate"), coordinator.model)
    assert vector is not None
    assert counts is not None
    kinds = [(charge.kind, charge.session, charge.steps, charge.pure_epsilon) for charge in site.ledger.charges()]
    assert kinds == [("train", 1, 2, 0.0), ("evaluate", 2, 0, 1.0)]
    lines = [json.loads(line) for line in (site.directory / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["setup", "train", "evaluate"]
    sent = wire.encode(reply) + vector.tobytes()
    assert lines[1]["bytes"] == len(sent)
    assert lines[1]["sha256"] == hashlib.sha256(sent).hexdigest()


def test_the_same_hospital_trains_with_fresh_noise_each_time(tmp_path: Path) -> None:
    """Compared before masking. The control: without noise and with the same seed the two are equal."""
    for mode, same in (("local", 0.05), ("none", 1.0)):
        site = sites_of(tmp_path / mode, f"privacy.mode={mode}")[0]
        data, plan = load(site.directory / "data.toml", site.study).part(TRAIN), plan_for(site.study)
        model = flatten(build_model(site.study))
        one, two = (
            update_vector(site.study, site.roster, site.name, data, plan, task=Task(1, 4), model=model)
            for _ in range(2)
        )
        assert np.mean(one[:-2] == two[:-2]) == pytest.approx(same, abs=0.05)


@pytest.mark.parametrize(
    ("change", "rule"),
    [("study_digest", "study-not-approved"), ("roster_digest", "roster-not-approved")],
)
def test_a_set_up_for_something_not_approved_is_refused_and_changes_nothing(
    tmp_path: Path, change: str, rule: str
) -> None:
    site = sites_of(tmp_path)[0]
    before = snapshot(site)
    digests = {"study_digest": site.study.digest, "roster_digest": site.roster.digest, change: bytes(32)}
    with pytest.raises(Refused) as caught:
        site.handle(wire.SetupRequest(RUN, **digests), None)
    assert caught.value.rule == rule
    assert snapshot(site) == before


def test_requests_out_of_order_are_refused_and_change_nothing(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    request = coordinator.request()
    site.handle(request, coordinator.model)
    before = snapshot(site)
    again = wire.SetupRequest(RUN, site.study.digest, site.roster.digest)
    for bad, model in (
        (request, coordinator.model + np.float32(1.0)),  # the same session for another model
        (again, None),  # second set-up
        (wire.ContributeRequest(bytes(15) + b"x", "train", 1, request.session), coordinator.model),  # unknown run
        (wire.ContributeRequest(RUN, "train", 2, b"rubbish"), coordinator.model),
        (coordinator.request(), None),  # no model
        (coordinator.request(), coordinator.model[:-1]),  # wrong shape
        (coordinator.request(), np.full_like(coordinator.model, np.nan)),
    ):
        with pytest.raises(FedmodelsError):
            site.handle(bad, model)
        assert snapshot(site) == before


def test_a_session_below_the_smallest_number_of_hospitals_is_refused(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    lying = encode(SessionRequest(1, tuple(s.name for s in coordinator.sites[:2])))
    with pytest.raises(ProtocolError, match="at least 3"):
        site.handle(
            wire.ContributeRequest(RUN, "train", 1, lying, secagg.relay(coordinator.aggregator)), coordinator.model
        )
    assert site.ledger.charges() == []


@pytest.mark.parametrize("mode", [(), DISTRIBUTED])
def test_planned_uploads_end_the_study_and_no_message_changes_that(tmp_path: Path, mode: tuple[str, ...]) -> None:
    coordinator = Coordinator(sites_of(tmp_path, "training.rounds=1", "federation.max_retries=1", *mode))
    site = coordinator.sites[0]
    for _ in range(2):
        site.handle(coordinator.request(), coordinator.model)
    site.handle(coordinator.request("evaluate"), coordinator.model)
    before = snapshot(site)
    with pytest.raises(Refused) as caught:
        site.handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "releases"
    coordinator.model = coordinator.model + np.float32(0.1)
    with pytest.raises(Refused) as caught:
        site.handle(coordinator.request("evaluate"), coordinator.model)
    assert caught.value.rule == "evaluations"
    assert snapshot(site) == before


@pytest.mark.parametrize("mode", [(), DISTRIBUTED])
def test_without_the_count_of_uploads_the_budget_itself_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: tuple[str, ...]
) -> None:
    """And without that, too, nothing would end it: the two are all there is."""
    settings = ("training.rounds=1", "federation.max_retries=0", "privacy.evaluation_epsilon=0.1")
    coordinator = Coordinator(sites_of(tmp_path, *settings, *mode))
    site = coordinator.sites[0]
    monkeypatch.setattr(client.site, "check_releases", lambda *_: None)
    site.handle(coordinator.request(), coordinator.model)
    with pytest.raises(Refused) as caught:
        site.handle(coordinator.request(round_=2), coordinator.model)
    assert caught.value.rule == "study-epsilon"
    assert len(site.ledger.charges()) == 1
    monkeypatch.setattr(client.site, "decide", lambda *_: None)
    site.handle(coordinator.request(round_=2), coordinator.model)


def test_the_same_noisy_counts_leave_again_at_no_more_cost_but_under_new_masks(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    _, one = site.handle(coordinator.request("evaluate"), coordinator.model)
    (path,) = (site.directory / "runs").glob("*.counts.npy")
    counts = path.read_bytes()
    _, two = site.handle(coordinator.request("evaluate"), coordinator.model)
    assert path.read_bytes() == counts
    assert np.mean(one == two) < 0.05
    assert [charge.pure_epsilon for charge in site.ledger.charges()] == [1.0, 0.0]


def test_an_evaluation_that_a_crash_cut_off_after_its_charge_is_not_charged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, real = coordinator.sites[0], client.site.counts_vector
    monkeypatch.setattr(client.site, "counts_vector", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        site.handle(coordinator.request("evaluate"), coordinator.model)
    monkeypatch.setattr(client.site, "counts_vector", real)
    cut_off, other = coordinator.model, coordinator.model + np.float32(0.1)
    coordinator.model = other
    with pytest.raises(Refused) as caught:  # or failing on purpose, model after model, would tell who is there
        site.handle(coordinator.request("evaluate"), coordinator.model)
    assert caught.value.rule == "evaluations"
    coordinator.model = cut_off
    _, vector = Site(site.directory).handle(coordinator.request("evaluate"), coordinator.model)
    assert vector is not None
    assert [charge.pure_epsilon for charge in site.ledger.charges()] == [1.0, 0.0]


def test_an_evaluation_begun_earlier_is_not_paid_for_by_one_of_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, real = coordinator.sites[0], Ledger.append
    monkeypatch.setattr(Ledger, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # begun, not charged
        site.handle(coordinator.request("evaluate"), coordinator.model)
    monkeypatch.setattr(Ledger, "append", real)
    begun = coordinator.model
    coordinator.model = coordinator.model + np.float32(0.1)
    site.handle(coordinator.request("evaluate"), coordinator.model)
    coordinator.model = begun
    with pytest.raises(Refused) as caught:
        site.handle(coordinator.request("evaluate"), coordinator.model)
    assert caught.value.rule == "evaluations"


def test_the_same_request_again_gets_the_same_bytes_and_costs_nothing(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site, request = coordinator.sites[0], coordinator.request()
    one, vector = site.handle(request, coordinator.model)
    two, again = Site(site.directory).handle(request, coordinator.model)
    assert one == two
    assert vector is not None
    assert again is not None
    assert (vector == again).all()
    assert len(site.ledger.charges()) == 1


def _missing(reply: Path, upload: Path) -> None:
    reply.unlink()


def _without_the_vector(reply: Path, upload: Path) -> None:
    upload.unlink()


def _empty(reply: Path, upload: Path) -> None:
    reply.write_bytes(b"")
    upload.write_bytes(b"")


def _empty_reply(reply: Path, upload: Path) -> None:
    reply.write_bytes(b"")


def _empty_vector(reply: Path, upload: Path) -> None:
    upload.write_bytes(reply.read_bytes())


def _rubbish(reply: Path, upload: Path) -> None:
    upload.write_bytes(b"rubb" + upload.read_bytes())
    reply.write_bytes(b"rubb")


def _another_message(reply: Path, upload: Path) -> None:
    body = wire.encode(wire.Refusal("failed"))
    upload.write_bytes(body + upload.read_bytes()[reply.stat().st_size :])
    reply.write_bytes(body)


def _no_header(reply: Path, upload: Path) -> None:
    body = wire.encode(wire.ContributeReply(b"rubbish"))
    upload.write_bytes(body + upload.read_bytes()[reply.stat().st_size :])
    reply.write_bytes(body)


def _cut(reply: Path, upload: Path) -> None:
    upload.write_bytes(upload.read_bytes()[:-4])


def _cut_within_a_word(reply: Path, upload: Path) -> None:
    upload.write_bytes(upload.read_bytes()[:-1])


def _zeros(reply: Path, upload: Path) -> None:
    size = reply.stat().st_size
    upload.write_bytes(upload.read_bytes()[:size] + bytes(upload.stat().st_size - size))


@pytest.mark.parametrize("on_dropout", ["retry", "recover"])
@pytest.mark.parametrize(
    "crash",
    [
        _missing, _without_the_vector, _empty, _empty_reply, _empty_vector, _rubbish, _another_message, _no_header,
        _cut, _cut_within_a_word, _zeros,
    ],
)  # fmt: skip
def test_an_upload_that_a_crash_of_the_machine_spoilt_does_not_leave_again(
    tmp_path: Path, on_dropout: str, crash: Callable[[Path, Path], None]
) -> None:
    coordinator = Coordinator(sites_of(tmp_path, f"federation.on_dropout={on_dropout}"))
    site, request = coordinator.sites[0], coordinator.request()
    site.handle(request, coordinator.model)
    files = RunFiles(site.directory / "runs", RUN)
    files.last_upload()
    crash(files.upload.with_suffix(".reply"), files.upload)
    before = snapshot(site)
    with pytest.raises(RunError, match="the last upload was lost"):
        Site(site.directory).handle(request, coordinator.model)
    assert snapshot(site) == before
    site.handle(coordinator.request(), coordinator.model)  # the next session is as always


@pytest.mark.parametrize("damage", [lambda _: b"", lambda state: state[:-1], lambda state: b"of another release"])
def test_a_state_that_cannot_be_read_does_not_stand_in_the_way_of_other_runs(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    site = sites_of(tmp_path)[0]
    set_up = wire.SetupRequest(RUN, site.study.digest, site.roster.digest)
    site.handle(set_up, None)
    (unreadable,) = (site.directory / "runs").glob("*.state")
    unreadable.write_bytes(damage(unreadable.read_bytes()))
    before = unreadable.read_bytes()
    for number in (1, 2):  # each makes the set-up before it go, which became no run
        run = bytes([number]) * 16
        reply, _ = site.handle(msgspec.structs.replace(set_up, run_id=run), None)
        assert isinstance(reply, wire.SetupReply)
        assert sorted((site.directory / "runs").glob("*.state")) == [unreadable, unreadable.with_stem(run.hex())]
    assert unreadable.read_bytes() == before
    with pytest.raises(ProtocolError, match="damaged or of another release"):
        site.handle(set_up, None)


def test_a_second_request_meanwhile_is_refused(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    with site.locked(), pytest.raises(Refused) as caught:
        Site(site.directory).handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "busy"
    site.handle(coordinator.request(), coordinator.model)


def test_without_privacy_every_sum_is_over_the_whole_roster(tmp_path: Path) -> None:
    """Evaluate over everyone, then over everyone but one: the difference would be one hospital's exact counts."""
    coordinator = Coordinator(sites_of(tmp_path, "privacy.mode=none"))
    site = coordinator.sites[0]
    for kind in ("train", "evaluate"):
        site.handle(coordinator.request(kind), coordinator.model)
        sites, coordinator.sites = coordinator.sites, coordinator.sites[:3]
        with pytest.raises(Refused) as caught:
            site.handle(coordinator.request(kind), coordinator.model)
        assert caught.value.rule == "whole-roster"
        coordinator.sites = sites


def test_without_privacy_a_recover_round_is_contributed_to_once(tmp_path: Path) -> None:
    """Nor for a model that differs by one bit, the same model in another round, another round or run."""
    settings = ["privacy.mode=none", "federation.on_dropout=recover"]
    coordinator = Coordinator(sites_of(tmp_path, *settings))
    site = coordinator.sites[0]
    for kind in ("train", "evaluate"):
        site.handle(coordinator.request(kind), coordinator.model)
    with pytest.raises(Refused, match="model of round 2 is that of round 1") as caught:
        site.handle(coordinator.request("train", round_=2), coordinator.model)
    assert caught.value.rule == "model-twice"
    assert "batch_rate" in caught.value.fix
    coordinator.model = np.nextafter(coordinator.model, np.float32(1.0))
    for request in (coordinator.request("train"), coordinator.request("evaluate", round_=2)):
        with pytest.raises(Refused) as caught:
            site.handle(request, coordinator.model)
        assert caught.value.rule == "round-twice"
    again = Coordinator(coordinator.sites, b"another run id !")
    with pytest.raises(Refused) as caught:
        site.handle(again.request("train"), again.model)
    assert caught.value.rule == "round-twice"


def test_a_model_that_overflows_for_chosen_patients_gives_counts_and_no_error(tmp_path: Path) -> None:
    """An error would answer, without noise, whether there is such a patient."""
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    coordinator.model = np.full_like(coordinator.model, 3e38)
    for kind in ("evaluate", "train"):
        reply, _ = site.handle(coordinator.request(kind), coordinator.model)
        assert isinstance(reply, wire.ContributeReply)


@pytest.mark.parametrize("error", [ValueError("John Doe"), DataError("12 of 303 rows"), MemoryError()])
def test_failures_after_data_were_used_have_one_word(tmp_path: Path, error: Exception) -> None:
    site = sites_of(tmp_path)[0]
    assert site.refuse(error) == wire.Refusal("failed")


def test_private_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    site = Coordinator(sites_of(tmp_path)).sites[0]
    for path in (site.directory / "identity.key", *(site.directory / "runs").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_site_is_never_made_over_another(tmp_path: Path) -> None:
    create_site(tmp_path / "a", "a")
    with pytest.raises(UsageError, match="already"):
        create_site(tmp_path / "a", "b")


def test_a_roster_without_this_hospitals_own_key_is_not_approved(tmp_path: Path) -> None:
    site = sites_of(tmp_path)[0]
    create_site(tmp_path / "stranger", site.name)
    study, roster = ((site.directory / "approved" / f).read_bytes() for f in ("study.toml", "roster.toml"))
    with pytest.raises(UsageError, match="own key"):
        Site(tmp_path / "stranger").approve(study, roster)


def test_a_change_of_one_byte_in_the_approved_study_ends_the_run(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    path = coordinator.sites[0].directory / "approved" / "study.toml"
    path.write_text(path.read_text().replace("learning_rate = 0.5", "learning_rate = 0.6"))
    site = Site(coordinator.sites[0].directory)
    with pytest.raises(Refused) as caught:
        site.handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "approval-changed"


def test_a_study_that_was_approved_anew_ends_the_run_of_the_old_one(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    study, roster = (site.directory / "approved" / name for name in ("study.toml", "roster.toml"))
    site.approve(study.read_bytes().replace(b"learning_rate = 0.5", b"learning_rate = 0.6"), roster.read_bytes())
    with pytest.raises(Refused) as caught:
        Site(site.directory).handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "approval-changed"


def test_a_policy_that_became_stricter_holds_at_once(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    site = coordinator.sites[0]
    (site.directory / "policy.toml").write_text("epsilon_per_study = 1.0\n")
    with pytest.raises(Refused) as caught:
        Site(site.directory).handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "epsilon-per-study"


def test_a_declared_size_that_changed_after_set_up_ends_the_run(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    path = coordinator.sites[0].directory / "approved" / "roster.toml"
    path.write_text(path.read_text().replace("declared_size = ", "declared_size = 1", 1))
    with pytest.raises(Refused) as caught:
        Site(path.parents[1]).handle(coordinator.request(), coordinator.model)
    assert caught.value.rule == "approval-changed"
