"""A hospital is a directory, and this is what it decides: policy -> ledger -> train -> mask -> log.

The directory holds `name`, `identity.key` (0600), `policy.toml`, `data.toml`, `approved/{study,roster}.toml`,
`ledger.sqlite` and its `ledger.head`, `runs/` (see `runfiles`), `log.jsonl` (every message out) and `errors.log`. The
same code runs against it in deployment and in simulation. Nothing that must survive a crash lives in memory: the ledger
row and the ratcheted protocol state are on disk before the bytes they stand for are handed over.
"""

import fcntl
import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.contribution import Task, counts_vector, update_vector
from client.ledger import Charge, Ledger, epsilon_of
from client.policy import DEFAULT, Policy, check_budget, check_study
from client.releases import check_releases, check_without_privacy
from client.runfiles import RunFiles, forget_unfinished
from fedmodels import secagg, strict_toml, wire
from fedmodels.data.dataset import TEST, TRAIN, Dataset
from fedmodels.data.load import load
from fedmodels.dp.plan import plan_for
from fedmodels.errors import FedmodelsError, Refused, RemoteProtocolError, UsageError
from fedmodels.files import read_text, write_synced
from fedmodels.models.registry import expected_parameters
from fedmodels.study import Hospital, Roster, Study, check_roster, parse_roster, parse_study

Reply = tuple[wire.Reply, npt.NDArray[np.uint32] | None]
Model = npt.NDArray[np.float32]


def create_site(directory: Path, name: str, policy: str = DEFAULT) -> None:
    """Make a site directory with a new identity key, readable by this user only. Never overwrites one."""
    if (directory / "identity.key").exists():
        raise UsageError(
            "there is a hospital in this folder already", where=str(directory), fix="choose another folder"
        )
    for folder in (directory, directory / "approved", directory / "runs"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_synced(directory / "policy.toml", policy.encode())
    write_synced(directory / "name", f"{name}\n".encode())
    write_synced(directory / "identity.key", Ed25519PrivateKey.generate().private_bytes_raw(), mode=0o600)


class Site:
    """One hospital. `now` is the clock that stamps ledger and log."""

    def __init__(self, directory: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.directory, self._now = directory, now

    # What its own people put there

    @cached_property
    def name(self) -> str:
        return read_text(self.directory / "name").strip()

    @cached_property
    def identity(self) -> Ed25519PrivateKey:
        try:
            return Ed25519PrivateKey.from_private_bytes((self.directory / "identity.key").read_bytes())
        except (OSError, ValueError):
            raise UsageError(
                "no usable identity key",
                where=str(self.directory / "identity.key"),
                fix="restore it from the backup, or start a new site directory",
            ) from None

    def card(self, declared_size: int) -> Hospital:
        """What others need to know of this hospital to put it on a roster."""
        return Hospital(self.name, self.identity.public_key().public_bytes_raw().hex(), declared_size)

    def approve(self, study: bytes, roster: bytes) -> None:
        """Pin a study and a roster (TOML text) as the ones that this hospital takes part in."""
        parsed, parties = parse_study(study.decode()), parse_roster(roster.decode())
        check_roster(parsed, parties)
        if parties.keys.get(self.name) != self.identity.public_key().public_bytes_raw():
            raise UsageError(
                "this hospital is not on the roster with its own key",
                where="roster.toml",
                fix="send the coordinator the card of this site directory",
            )
        write_synced(self.directory / "approved" / "study.toml", study)
        write_synced(self.directory / "approved" / "roster.toml", roster)

    @cached_property
    def policy(self) -> Policy:
        path = self.directory / "policy.toml"
        return strict_toml.decode(read_text(path), Policy, str(path))

    @cached_property
    def study(self) -> Study:
        path = self.directory / "approved" / "study.toml"
        return parse_study(read_text(path), str(path))

    @cached_property
    def roster(self) -> Roster:
        path = self.directory / "approved" / "roster.toml"
        return parse_roster(read_text(path), str(path))

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.directory / "ledger.sqlite", self.identity)

    # What the coordinator may ask

    def handle(self, request: wire.Request, model: Model | None) -> Reply:
        """The reply to a request and the masked vector beside it; raises a `FedmodelsError` where it declines.

        One request at a time: a second one that comes meanwhile, from another process even, is refused. A request that
        is refused changes nothing. One that fails after it was charged stays charged.
        """
        with self._locked():
            check_study(self.policy, self.study)
            match request:
                case wire.SetupRequest():
                    return self._setup(request), None
                case wire.UnmaskRequest():
                    return self._unmask(request), None
                case wire.PresenceRequest():
                    self._load(request.run_id)
                    return self._presence(), None
                case wire.ContributeRequest():
                    return self._contribute(request, model)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.directory / ".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused("busy", "another request is being worked on", fix="ask again later") from None
            yield

    def _presence(self) -> wire.PresenceReply:
        self._log("presence", self.name.encode(), None)
        return wire.PresenceReply(self.name)

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
        files = self._files(request.run_id)
        state = files.load()
        if state is None:
            forget_unfinished(self.directory / "runs")
            terms = wire.terms(self.study, self.roster, request.run_id)
            state, _ = secagg.begin_setup(terms, self.name, self.identity, os.urandom)
            files.save(state)
        if not isinstance(state, secagg.Announced):
            raise Refused("run-exists", "this run was set up before", fix="start a new run")
        self._log("setup", state.message, None)
        return wire.SetupReply(self.name, state.message)

    def _contribute(self, request: wire.ContributeRequest, model: Model | None) -> Reply:
        if model is None or model.size != expected_parameters(self.study) or not np.isfinite(model).all():
            what = "the model sent is missing, not one of this study, or not finite"
            raise Refused("wrong-model", what, fix="start a new run, with the same version")
        state = self._load(request.run_id)
        if isinstance(state, secagg.Announced):
            state = secagg.finish_setup(state, request.relay)
        digest = wire.model_digest(request.kind, request.round, model)
        if secagg.is_repeat(state, request.session, digest):
            return self._send(request, self._files(request.run_id).last_upload(), None)
        asked = secagg.check_request(state, request.session)
        data = load(self.directory / "data.toml", self.study)
        charge = self._charge(request, asked, model)
        spent = self._afford(charge)
        # Charged before patients' data are used: even a failure that the coordinator notices is paid for.
        self.ledger.append(charge)
        vector = self._vector(request, len(asked.contributors), data, model)
        after: secagg.State
        if self.study.federation.on_dropout == "recover":
            after, upload = secagg.upload_recover(state, request.session, digest, vector, os.urandom, in_place=True)
        else:
            after, upload = secagg.upload(state, request.session, digest, vector, in_place=True)
        self._files(request.run_id).keep_upload(upload)
        self._files(request.run_id).save(after)
        return self._send(request, upload, spent)

    def _vector(
        self, request: wire.ContributeRequest, contributors: int, data: Dataset, model: Model
    ) -> npt.NDArray[np.uint32]:
        if request.kind == "train":
            return update_vector(
                self.study, self.roster, self.name, data.part(TRAIN), plan_for(self.study),
                task=Task(request.round, contributors), model=model,
            )  # fmt: skip
        files = self._files(request.run_id)
        counts = files.counts(model)  # the noise was drawn and paid for: the same noisy counts may leave again
        if counts is None:
            counts = counts_vector(self.study, self.roster, data.part(TEST), model)
            if self.study.privacy.mode != "none":
                files.keep_counts(model, counts)
        return counts

    def _send(self, request: wire.ContributeRequest, upload: secagg.Upload, epsilon: float | None) -> Reply:
        self._log(request.kind, upload.header, epsilon, upload.vector)
        return wire.ContributeReply(upload.header), upload.vector

    def _unmask(self, request: wire.UnmaskRequest) -> wire.UnmaskReply:
        state, message = secagg.reveal(self._load(request.run_id), request.message)
        self._files(request.run_id).save(state)
        self._log("unmask", message, None)
        return wire.UnmaskReply(message)

    def _charge(self, request: wire.ContributeRequest, asked: secagg.SessionRequest, model: Model) -> Charge:
        privacy, plan = self.study.privacy, plan_for(self.study)
        event = plan.event(1) if plan and request.kind == "train" else None
        again = request.kind == "evaluate" and self._files(request.run_id).counts(model) is not None
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
            pure_epsilon=privacy.evaluation_epsilon if plan and request.kind == "evaluate" and not again else 0.0,
        )

    def _afford(self, charge: Charge) -> float:
        """Epsilon of this study once `charge` is on the ledger; raises `Refused` where it cannot be afforded."""
        charges = self.ledger.charges()
        plan = plan_for(self.study)
        if plan is None:
            check_without_privacy(self.study, self.roster, charges, charge)
        else:
            check_releases(plan.releases, charges, charge)
        spent, elsewhere = epsilon_of([*charges, charge], self.study.digest)
        if plan is not None:
            check_budget(self.policy, self.study.epsilon_total, spent, elsewhere)
        return spent

    # What it keeps

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

    def _log(
        self, kind: str, message: bytes, epsilon: float | None, masked: npt.NDArray[np.uint32] | None = None
    ) -> None:
        """One line for each message that leaves, before it leaves. epsilon: of the study so far, where it changed."""
        digest, size = hashlib.sha256(message), len(message)
        if masked is not None:
            digest.update(np.ascontiguousarray(masked).data)
            size += masked.nbytes
        line = {
            "time": self._now().isoformat(timespec="seconds"),
            "to": "coordinator",
            "kind": kind,
            "bytes": size,
            "sha256": digest.hexdigest(),
            "epsilon": None if epsilon is None or math.isinf(epsilon) else round(epsilon, 6),
        }
        self._append("log.jsonl", json.dumps(line))

    def refuse(self, error: Exception) -> wire.Refusal:
        """The answer to a request that failed: one word. The rest is kept here, for the hospital's own people.

        A failure other than a refusal by rule or protocol, which are decided before data are used, has one word for
        all causes: which of them it was may depend on patients.
        """
        known = isinstance(error, FedmodelsError)
        text = str(error) if known else "".join(traceback.format_exception(error))
        self._append("errors.log", f"{self._now().isoformat(timespec='seconds')} {text}")
        match error:
            case Refused():
                rule = error.rule
            case RemoteProtocolError():
                rule = "protocol"
            case _:
                rule = "failed"
        self._log("refusal", rule.encode(), None)
        return wire.Refusal(rule)

    def _append(self, file: str, line: str) -> None:
        descriptor = os.open(self.directory / file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as log:
            log.write(line + "\n")
            log.flush()
            os.fsync(log.fileno())
