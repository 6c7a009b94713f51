"""What a hospital decides about one request: policy -> ledger -> train -> mask -> log.

It works on the site directory that `folder` describes; the same code runs in deployment and in simulation. Nothing that
must survive a crash lives in memory: the ledger row and the ratcheted protocol state are on disk before the bytes they
stand for are handed over, and the log lists those bytes.
"""

import math
import os
import traceback
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from client.contribution import Task, counts_vector, own_results, update_vector
from client.folder import SiteFolder
from client.ledger import Chain, Charge, epsilon_of
from client.ownlayers import OwnLayers
from client.ownresults import OwnResult, keep
from client.policy import Facts, Spending, decide
from client.releases import aborts, check_releases, check_without_privacy
from client.runfiles import RunFiles, forget_unfinished
from client.sentlog import Context, Message
from client.witness import check_heads
from fedmodels import secagg, wire
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.data.load import load
from fedmodels.dp.canaries import Canaries
from fedmodels.dp.plan import plan_for
from fedmodels.errors import FedmodelsError, Refused, RemoteProtocolError
from fedmodels.joining import sign_head, sign_presence
from fedmodels.models.device import device
from fedmodels.models.registry import expected_parameters
from fedmodels.secagg.messages import decode_request
from fedmodels.study import Roster, Study

Reply = tuple[wire.Reply, npt.NDArray[np.uint32] | None]
Model = npt.NDArray[np.float32]
T = TypeVar("T", bound=wire.Reply)


def facts_of(study: Study, roster: Roster, coordinator: str) -> Facts:
    """What a policy decides about, as far as no data and no request are needed for it."""
    return Facts(study, expected_parameters(study), len(roster.hospital), coordinator)


class Site(SiteFolder):
    """One hospital, as the coordinator meets it."""

    canaries: Canaries | None = None  # of an audit; only the process that runs this object can set it

    def handle(self, request: wire.Request, model: Model | None) -> Reply:
        """The reply to a request and the masked vector beside it; raises a `FedmodelsError` where it declines.

        One request at a time: a second one that comes meanwhile, from another process even, is refused. A request that
        is refused changes nothing. One that fails after it was charged stays charged.
        """
        with self.locked():
            begins = isinstance(request, wire.SetupRequest | wire.ContributeRequest)
            decide(self.policy, replace(self.facts, minute=self.minute if begins else None))
            match request:
                case wire.SetupRequest():
                    return self._setup(request), None
                case wire.UnmaskRequest():
                    return self._unmask(request), None
                case wire.PresenceRequest():
                    return self._presence(request), None
                case wire.ContributeRequest():
                    return self._contribute(request, model)

    @cached_property
    def facts(self) -> Facts:
        """Of what is approved here."""
        return facts_of(self.study, self.roster, self.coordinator)

    def was_logged(self, reply: bytes, vector: bytes | None) -> bool:
        """Whether the log's newest line is of exactly this message. Nothing else may leave."""
        newest = self.sent.newest()
        return newest is not None and newest.sha256 == Message(reply, vector).sha256

    def _presence(self, request: wire.PresenceRequest) -> wire.PresenceReply:
        self._load(request.run_id)
        signature = sign_presence(self.identity, request.run_id, request.nonce)
        return self._leave("presence", wire.PresenceReply(self.name, signature), request.run_id)

    def _setup(self, request: wire.SetupRequest) -> wire.SetupReply:
        if request.study_digest != self.study.digest:
            raise Refused(
                "study-not-approved",
                "the coordinator runs a study that is not approved here",
                where="approved/study.toml",
                fix="compare the two study files, then approve it again",
            )
        if request.roster_digest != self.roster.digest:
            raise Refused(
                "roster-not-approved",
                "the coordinator uses a roster that is not approved here",
                where="approved/roster.toml",
                fix="compare the two rosters, then approve it again",
            )
        chain = self._check_heads(request)
        files = self._files(request.run_id)
        state = files.load()
        if state is None:
            forget_unfinished(self.directory / "runs")
            terms = wire.terms(self.study, self.roster, request.run_id)
            state, _ = secagg.begin_setup(terms, self.name, self.identity, os.urandom)
            files.save(state)
        if not isinstance(state, secagg.Announced):
            raise Refused("run-exists", "this run was set up before", fix="start a new run")
        self.witness.keep(self._others(request), self.roster, self.time)
        head = sign_head(self.identity, chain.hashes[-1]) if chain.hashes else b""
        return self._leave("setup", wire.SetupReply(self.name, state.message, head), request.run_id)

    def _contribute(self, request: wire.ContributeRequest, model: Model | None) -> Reply:
        if model is None or model.size != self.facts.parameters or not np.isfinite(model).all():
            what = "the model sent is missing, not one of this study, or not finite"
            raise Refused("wrong-model", what, fix="start a new run, with the same version")
        state, files = self._load(request.run_id), self._files(request.run_id)
        if isinstance(state, secagg.Announced):
            state = secagg.finish_setup(state, request.relay)
        weights, chain = wire.weights_digest(model), self._check_heads(request)
        digest = wire.model_digest(request.kind, request.round, model.size, weights)
        if secagg.is_repeat(state, request.session, digest):
            return self._send(request, decode_request(request.session).session, None, files.last_upload())
        asked = secagg.check_request(state, request.session)
        data = load(self.directory / "data.toml", self.study)
        charge = self._charge(request, asked, weights, self._is_paid(request, model, chain))
        spent = self._afford(charge, chain, data.patients_in(TRAIN))
        self.witness.keep(self._others(request), self.roster, self.time)
        device()  # raises where the chosen one is missing: before anything is charged
        # Charged before patients' data are used: even a failure that the coordinator notices is paid for.
        if charge.pure_epsilon:
            files.begin_counts(model)
        row = self.ledger.append(charge)
        vector = self._vector(request, len(asked.contributors), data, model)
        after: secagg.State
        if self.study.federation.on_dropout == "recover":
            after, upload = secagg.upload_recover(state, request.session, digest, vector, os.urandom, in_place=True)
        else:
            after, upload = secagg.upload(state, request.session, digest, vector, in_place=True)
        reply = wire.encode(wire.ContributeReply(upload.header, sign_head(self.identity, row)))
        files.keep_upload(reply, upload.vector)
        files.save(after)
        return self._send(request, asked.session, spent, (reply, upload.vector))

    def _check_heads(self, request: wire.SetupRequest | wire.ContributeRequest) -> Chain:
        """The ledger, every row checked, and not older than the head that the coordinator holds of this hospital."""
        chain = self.ledger.chain()
        check_heads(request.heads, self.name, self.roster, chain.hashes)
        return chain

    def _others(self, request: wire.SetupRequest | wire.ContributeRequest) -> dict[str, bytes]:
        return {hospital: head for hospital, head in request.heads.items() if hospital != self.name}

    def _vector(
        self, request: wire.ContributeRequest, contributors: int, data: Dataset, model: Model
    ) -> npt.NDArray[np.uint32]:
        own = self.own_layers(request.run_id)
        if request.kind == "train":
            return update_vector(
                self.study, self.roster, self.name, data.part(TRAIN), plan_for(self.study),
                task=Task(request.round, contributors, self.canaries, own), model=model,
            )  # fmt: skip
        files = self._files(request.run_id)
        counts = files.counts(model)  # the noise was drawn and paid for: the same noisy counts may leave again
        if counts is None:
            exact, metrics = own_results(self.study, data.part(TEST), own.whole(model) if own else model)
            run, digest = request.run_id.hex(), self.study.digest.hex()
            keep(self.directory, OwnResult(digest, run, self.time, metrics, tuple(exact.tolist())))
            counts = counts_vector(self.study, self.roster, exact)
            if self.study.privacy.mode != "none":
                files.keep_counts(model, counts)
        return counts

    def _unmask(self, request: wire.UnmaskRequest) -> wire.UnmaskReply:
        state, message = secagg.reveal(self._load(request.run_id), request.message)
        self._files(request.run_id).save(state)
        return self._leave("unmask", wire.UnmaskReply(message), request.run_id)

    def _is_paid(self, request: wire.ContributeRequest, model: Model, chain: Chain) -> bool:
        """Whether the ledger has the charge for these evaluation counts: they were drawn, or a crash came before."""
        if request.kind != "evaluate":
            return False
        files = self._files(request.run_id)
        charged = any(c.pure_epsilon for c in chain.charges if c.study_digest == self.study.digest)
        return files.counts(model) is not None or (charged and files.counts_begun(model))

    def _charge(
        self, request: wire.ContributeRequest, asked: secagg.SessionRequest, weights: bytes, paid: bool
    ) -> Charge:
        privacy, plan = self.study.privacy, plan_for(self.study)
        event = plan.event(1) if plan and request.kind == "train" else None
        return Charge(
            study_digest=self.study.digest,
            roster_digest=self.roster.digest,
            run_id=request.run_id,
            session=asked.session,
            kind=request.kind,
            round=request.round,
            contributors=asked.contributors,
            time=self._now().isoformat(timespec="seconds"),
            mode=privacy.mode,
            sampling_rate=event.sampling_rate if event else 0.0,
            noise_multiplier=event.noise_multiplier if event else 0.0,
            steps=event.steps if event else 0,
            delta=privacy.delta if event else 0.0,
            pure_epsilon=privacy.evaluation_epsilon if plan and request.kind == "evaluate" and not paid else 0.0,
            model=weights,
        )

    def _afford(self, charge: Charge, chain: Chain, patients: int) -> float:
        """Epsilon of this study once `charge` is on the ledger; raises `Refused` where it cannot be afforded."""
        plan, charges = plan_for(self.study), [*chain.charges, charge]
        if plan is None:
            check_without_privacy(self.study, self.roster, chain.charges, charge)
        else:
            check_releases(plan.releases, chain.charges, charge)
        spent, elsewhere = epsilon_of(charges, self.study.digest)
        spending = Spending(spent, elsewhere) if plan else None
        repeats = aborts(charges, self.study.digest)
        decide(self.policy, replace(self.facts, patients=patients, aborts=repeats, spending=spending))
        return spent

    # What it keeps

    def own_layers(self, run_id: bytes) -> OwnLayers | None:
        """The layers that never leave this hospital, where the study has such."""
        if self.study.training.personal == "none":
            return None
        return OwnLayers(self.directory / "personal", run_id.hex(), self.study)

    def _files(self, run_id: bytes) -> RunFiles:
        return RunFiles(self.directory / "runs", run_id)

    def _load(self, run_id: bytes) -> secagg.State:
        """The protocol state of a run that was set up here under what is approved now."""
        state = self._files(run_id).load()
        if state is None:
            raise Refused("unknown-run", "no set-up for this run", fix="start a new run")
        if state.terms != wire.terms(self.study, self.roster, run_id):
            raise Refused(
                "approval-changed",
                "study or roster were approved anew since this run was set up",
                where="approved",
                fix="start a new run",
            )
        return state

    def _leave(self, kind: str, reply: T, run_id: bytes = b"") -> T:
        """`reply`, once it is on the log."""
        self.sent.record(Context(self.time, self._to, kind, run_id.hex()), Message(wire.encode(reply)))
        return reply

    def _send(
        self, request: wire.ContributeRequest, session: int, epsilon: float | None, upload: tuple[bytes, secagg.Vector]
    ) -> Reply:
        """An encoded reply and its vector, once they are on the log. epsilon: of the study so far, where it changed."""
        told = None if epsilon is None or math.isinf(epsilon) else round(epsilon, 6)
        context = Context(self.time, self._to, request.kind, request.run_id.hex(), session, told)
        file, limit = self._files(request.run_id).upload, self.policy.keep_sent_megabytes * 10**6
        self.sent.record(context, Message(*upload), file, limit)
        return wire.decode_reply(upload[0]), upload[1]

    @property
    def _to(self) -> str:
        return f"{self.invitation.name} at {self.invitation.address}" if self.invitation else "coordinator"

    def refuse(self, error: Exception) -> wire.Refusal:
        """The answer to a request that failed: one word. The rest is kept here, for the hospital's own people.

        A failure other than a refusal by rule or protocol, which are decided before data are used, has one word for
        all causes: which of them it was may depend on patients.
        """
        known = isinstance(error, FedmodelsError)
        text = str(error) if known else "".join(traceback.format_exception(error))
        self._explain(f"{self.time} {text}")
        match error:
            case Refused():
                rule = error.rule
            case RemoteProtocolError():
                rule = "protocol"
            case _:
                rule = "failed"
        return self._leave("refusal", wire.Refusal(rule))

    def _explain(self, text: str) -> None:
        descriptor = os.open(self.directory / "errors.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as log:
            log.write(text + "\n")
