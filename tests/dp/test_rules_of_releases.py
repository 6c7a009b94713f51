"""Rules 5 and 9, what a release costs and how many hospitals it hides in, each beside a variant that breaks it.

Each check looks at what hospitals hand over to the real protocol; a control breaks the mechanism and the same check has
to fail (see `test_rules`).
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from federations import RUN, Coordinator, lose, run, sites_of

import client.site
from client.contribution import own_results
from client.ledger import Charge, Ledger, epsilon_of
from client.sentlog import Context, Message, SentLog
from client.site import Site
from fedmodels import secagg, wire
from fedmodels.data.dataset import TEST
from fedmodels.data.load import load
from fedmodels.dp.plan import plan_for
from fedmodels.errors import Refused, RemoteProtocolError
from fedmodels.packing import evaluation_layout, evaluation_noise, pack_counts, unpack_counts
from fedmodels.secagg.terms import Terms
from fedmodels.study import Study

# --- 5: every upload is a release -------------------------------------------------------------------------------------

Upload = tuple[Path, str, str, int]  # site directory, kind, run id, session


def costs(charge: Charge, study: Study) -> bool:
    """Whether the charge is the whole cost of a training upload, or the line of an evaluation."""
    plan = plan_for(study)
    assert plan is not None
    if charge.kind == "evaluate":
        return charge.pure_epsilon in (0.0, study.privacy.evaluation_epsilon)  # 0: the same noisy counts leave again
    event, paid = plan.event(1), (charge.sampling_rate, charge.noise_multiplier, charge.steps)
    return paid == (event.sampling_rate, event.noise_multiplier, event.steps)


def is_paid(upload: Upload, uploads: list[Upload]) -> bool:
    """Whether the ledger has a line of its own for this upload, and evaluation's epsilon where it is one."""
    directory, kind, run_id, session = upload
    site = Site(directory)
    charges = [c for c in site.ledger.charges() if c.kind == kind and costs(c, site.study)]
    own = [c for c in charges if (c.run_id.hex(), c.session) == (run_id, session)]
    if len(own) != uploads.count(upload):
        return False
    studies = {c.study_digest for c in own}
    return kind == "train" or any(c.pure_epsilon for c in charges if c.study_digest in studies)


def unpaid(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> tuple[list[Upload], list[Upload]]:
    """(all uploads that left while `act` ran, those not paid for when they left or, at the end, any more).

    An upload leaves when it is on the log, and not before; the same bytes again are the same upload.
    """
    record, uploads, seen, bad = SentLog.record, list[Upload](), set[str](), list[Upload]()

    def log(self: SentLog, context: Context, message: Message, *rest: Any) -> None:
        if context.session is not None and message.sha256 not in seen:
            upload = (self.path.parent, context.kind, context.run, context.session)
            seen.add(message.sha256)
            uploads.append(upload)
            if not is_paid(upload, uploads):
                bad.append(upload)
        record(self, context, message, *rest)

    with monkeypatch.context() as watched:
        watched.setattr(SentLog, "record", log)
        act()
    return uploads, bad + [upload for upload in uploads if not is_paid(upload, uploads)]


def by_hand(tmp_path: Path) -> None:
    coordinator = Coordinator(sites_of(tmp_path))
    for kind in ("train", "evaluate", "evaluate"):
        coordinator.sites[0].handle(coordinator.request(kind), coordinator.model)  # type: ignore[arg-type]


def with_an_aborted_round(tmp_path: Path) -> None:
    """The second session lacks one upload: its round is run again, by those who are left."""
    run(tmp_path, "training.rounds=2", faults=lose(2, 3))


def with_a_dropout_in_recover(tmp_path: Path) -> None:
    """The upload of one hospital to the second session is lost, and the sum opens without it."""
    recover = ("federation.on_dropout=recover", "privacy.max_colluding=0")
    run(tmp_path, "training.rounds=2", *recover, faults=lose(2, 3))


def with_a_tuning_run(tmp_path: Path, lifetimes: int = 2) -> None:
    """A trial of another learning rate on the same patients, by a study of its own, and then the study itself.

    lifetimes: how many studies' epsilon the hospitals' policies allow in all.
    """
    sites = sites_of(tmp_path)
    for site in sites:
        policy = (site.directory / "policy.toml").read_text()
        lifetime = f"epsilon_lifetime = {lifetimes * site.policy.epsilon_per_study}"
        (site.directory / "policy.toml").write_text(re.sub("epsilon_lifetime = .*", lifetime, policy))
    study, roster = ((sites[0].directory / "approved" / name).read_bytes() for name in ("study.toml", "roster.toml"))
    trial = study.replace(b"learning_rate = 0.5", b"learning_rate = 0.1")
    for text, run_id in ((trial, b"t" * 16), (study, RUN)):
        for site in sites:
            site.approve(text, roster)
        coordinator = Coordinator([Site(site.directory) for site in sites], run_id)
        coordinator.sites[0].handle(coordinator.request(), coordinator.model)


ACTS = {  # and how many uploads leave
    by_hand: 3,
    with_an_aborted_round: 4 + 4 + 3 + 4,
    with_a_dropout_in_recover: 4 + 4 + 4,
    with_a_tuning_run: 2,
}


@pytest.mark.parametrize("act", ACTS)
def test_rule_5_every_upload_is_charged_before_it_leaves_and_stays_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]
) -> None:
    uploads, bad = unpaid(monkeypatch, lambda: act(tmp_path))
    assert (len(uploads), bad) == (ACTS[act], [])


def test_rule_5_a_tuning_run_uses_up_the_budget_of_the_study_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused) as caught:
        with_a_tuning_run(tmp_path / "charged", lifetimes=1)
    assert caught.value.rule == "budget-lifetime"
    monkeypatch.setattr(client.site, "epsilon_of", lambda charges, study: (epsilon_of(charges, study)[0], 0.0))
    with_a_tuning_run(tmp_path / "control", lifetimes=1)


Break = Callable[[pytest.MonkeyPatch], None]


def charge_after_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    append, record, waiting = Ledger.append, SentLog.record, list[Callable[[], object]]()

    def later(self: Ledger, charge: Charge) -> bytes:
        waiting.append(lambda: append(self, charge))
        return bytes(32)

    def log(self: SentLog, *arguments: Any) -> None:
        record(self, *arguments)
        while waiting:
            waiting.pop()()

    monkeypatch.setattr(Ledger, "append", later)
    monkeypatch.setattr(SentLog, "record", log)


def charge_unless(spared: Callable[[Charge, tuple[Charge, ...]], bool]) -> Break:
    """A ledger that leaves out a charge; spared: whether, from the charge and those before."""

    def breaks(monkeypatch: pytest.MonkeyPatch) -> None:
        append = Ledger.append

        def sparing(self: Ledger, charge: Charge) -> bytes:
            chain = self.chain()
            return chain.hashes[-1] if spared(charge, chain.charges) else append(self, charge)

        monkeypatch.setattr(Ledger, "append", sparing)

    return breaks


def charge_once_per_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes of charging rounds that were completed: the upload to the aborted one is free."""
    charge_unless(lambda new, before: any((c.kind, c.round) == (new.kind, new.round) for c in before))(monkeypatch)


def charge_one_study_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    charge_unless(lambda new, before: any(c.study_digest != new.study_digest for c in before))(monkeypatch)


def charge_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    charge_unless(lambda new, _: new.kind == "evaluate")(monkeypatch)


def charge_evaluation_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "_is_paid", lambda *_: True)


def charge_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Ledger.append

    def fewer(self: Ledger, charge: Charge) -> bytes:
        return append(self, msgspec.structs.replace(charge, steps=charge.steps // 2))

    monkeypatch.setattr(Ledger, "append", fewer)


@pytest.mark.parametrize(
    ("breaks", "act", "kinds"),
    [
        (charge_after_it_left, by_hand, {"train", "evaluate"}),
        (charge_fewer_steps, by_hand, {"train"}),
        (charge_once_per_round, with_an_aborted_round, {"train"}),
        (charge_one_study_alone, with_a_tuning_run, {"train"}),
        (charge_training_alone, by_hand, {"evaluate"}),
        (charge_evaluation_nothing, by_hand, {"evaluate"}),
    ],
)
def test_control_rule_5_an_upload_that_is_not_charged_in_time_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Break, act: Callable[[Path], None], kinds: set[str]
) -> None:
    breaks(monkeypatch)
    uploads, bad = unpaid(monkeypatch, lambda: act(tmp_path))
    assert len(uploads) == ACTS[act]
    assert {upload[1] for upload in bad} == kinds


# --- 9: an evaluation is a noisy sum over many hospitals --------------------------------------------------------------


class Greedy(Coordinator):
    """A coordinator that asks for sums over fewer hospitals than they agreed to."""

    def __init__(self, sites: list[Site]) -> None:
        super().__init__(sites)
        self.aggregator = replace(
            self.aggregator, terms=replace(self.aggregator.terms, min_contributors=2, max_colluding=0)
        )


def opened(tmp_path: Path, kind: wire.Kind, hospitals: int) -> tuple[secagg.Vector | None, Coordinator]:
    """The sum over so many hospitals that a coordinator gets to see, None where they refuse."""
    coordinator = Greedy(sites_of(tmp_path))
    coordinator.sites = coordinator.sites[:hospitals]
    words = evaluation_layout(coordinator.sites[0].study).length if kind == "evaluate" else coordinator.model.size + 2
    request = coordinator.request(kind, words=words)
    try:
        for site in coordinator.sites:
            reply, vector = site.handle(request, coordinator.model)
            assert isinstance(reply, wire.ContributeReply)
            assert vector is not None
            coordinator.session.add(reply.header, vector)
    except RemoteProtocolError:
        return None, coordinator
    return coordinator.session.result(), coordinator


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_rule_9_a_sum_over_fewer_than_min_contributors_does_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: wire.Kind
) -> None:
    def opens(hospitals: int, folder: str) -> bool:
        total, coordinator = opened(tmp_path / folder, kind, hospitals)
        assert [len(site.ledger.charges()) for site in coordinator.sites] == [int(total is not None)] * hospitals
        return total is not None

    assert opens(3, "enough")
    assert not opens(2, "too few")
    monkeypatch.setattr(Terms, "least", 2)  # hospitals that do not insist
    assert opens(2, "control")


def test_rule_9_an_evaluation_sum_carries_every_hospitals_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(folder: str) -> float:
        """Variance of the noise in a sum that opened, over the planned one: 1 with a standard error of about 1/5."""
        total, coordinator = opened(tmp_path / folder, "evaluate", 3)
        study, roster = coordinator.sites[0].study, coordinator.sites[0].roster
        assert total is not None
        exact = [
            own_results(study, load(site.directory / "data.toml", study).part(TEST), coordinator.model)[0]
            for site in coordinator.sites
        ]
        noise = unpack_counts(total, roster) - np.sum(exact, axis=0)
        return float(np.mean(noise**2) / evaluation_noise(study, 3).variance)

    assert 0.3 < noise("noisy") < 3.0
    monkeypatch.setattr(client.site, "counts_vector", lambda study, roster, counts: pack_counts(counts, roster))
    assert noise("control") == 0.0
