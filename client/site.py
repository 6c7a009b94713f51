"""A hospital is a directory, and this is what it decides: policy -> ledger -> train -> mask -> log.

The directory holds `name`, `identity.key` (0600), `policy.toml`, `data.toml`, `approved/{study,roster}.toml`,
`ledger.sqlite`, `runs/<run>.state` (protocol state, 0600), `log.jsonl` (every message out) and `errors.log`. The same
code runs against it in deployment and in simulation. Nothing that must survive a crash lives in memory: the ledger row
and the ratcheted protocol state are on disk before the bytes they stand for are handed over.
"""

import hashlib
import json
import math
import os
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.contribution import counts_vector, update_vector
from client.ledger import Charge, Ledger, epsilon_of
from client.policy import DEFAULT, Policy, check_budget, check_study
from fedmodels import secagg, strict_toml, wire
from fedmodels.data.dataset import TEST, TRAIN
from fedmodels.data.load import load
from fedmodels.dp.plan import Plan, plan_for
from fedmodels.errors import FedmodelsError, Refused, UsageError
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
    (directory / "approved").mkdir(parents=True, exist_ok=True)
    (directory / "runs").mkdir(mode=0o700, exist_ok=True)
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
        """The reply to a request and the masked vector beside it. Raises a `FedmodelsError` and changes nothing."""
        check_study(self.policy, self.study)
        if isinstance(request, wire.SetupRequest):
            return self._setup(request)
        if model is None:
            raise Refused("no-model", "a request to contribute came without a model", fix="use the same version")
        return self._contribute(request, model)

    def _setup(self, request: wire.SetupRequest) -> Reply:
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
        if self._state_path(request.run_id).exists():
            raise Refused("run-exists", "this run was set up before", fix="start a new run")
        state, key_message = secagg.begin_setup(self._terms(request.run_id), self.name, self.identity, os.urandom)
        self._save(request.run_id, state)
        self._log("setup", key_message, 0.0)
        return wire.SetupReply(self.name, key_message), None

    def _contribute(self, request: wire.ContributeRequest, model: Model) -> Reply:
        state = self._load(request)
        session = secagg.check_request(state, request.session)
        if model.size != expected_parameters(self.study) or not np.isfinite(model).all():
            raise Refused(
                "wrong-model", "the model sent is not one of this study, or not finite", fix="start a new run"
            )
        data = load(self.directory / "data.toml", self.study)
        plan = plan_for(self.study)
        charge = self._charge(request, session.session, model, plan)
        spent = self._afford(charge)
        # Charged before training: even a failure of it that the coordinator notices is paid for.
        self.ledger.append(charge)
        if request.kind == "train":
            vector = update_vector(
                self.study, self.roster, self.name, data.part(TRAIN), plan, round_=request.round, model=model
            )
        else:
            vector = counts_vector(self.study, self.roster, data.part(TEST), model)
        digest = wire.model_digest(request.kind, request.round, model)
        state, upload = secagg.upload(state, request.session, digest, vector)
        self._save(request.run_id, state)
        self._log(request.kind, upload.header, spent, upload.vector)
        return wire.ContributeReply(upload.header), upload.vector

    def _charge(self, request: wire.ContributeRequest, session: int, model: Model, plan: Plan | None) -> Charge:
        privacy = self.study.privacy
        event = plan.event(1) if plan and request.kind == "train" else None
        return Charge(
            study_digest=self.study.digest,
            roster_digest=self.roster.digest,
            run_id=request.run_id,
            session=session,
            kind=request.kind,
            model_digest=hashlib.sha256(np.ascontiguousarray(model).data).digest(),
            time=self._now().isoformat(timespec="seconds"),
            mode=privacy.mode,
            sampling_rate=event.sampling_rate if event else 0.0,
            noise_multiplier=event.noise_multiplier if event else 0.0,
            steps=event.steps if event else 0,
            delta=privacy.delta if event else 0.0,
            pure_epsilon=privacy.evaluation_epsilon if plan and request.kind == "evaluate" else 0.0,
        )

    def _afford(self, charge: Charge) -> float:
        """Epsilon of this study once `charge` is on the ledger; raises `Refused` where it cannot be afforded."""
        charges = self.ledger.charges()
        spent, elsewhere = epsilon_of([*charges, charge], self.study.digest)
        if charge.mode != "none":
            check_budget(self.policy, self.study.epsilon_total, spent, elsewhere)
        elif charge.kind == "train" and any(
            (c.study_digest, c.kind, c.model_digest) == (charge.study_digest, "train", charge.model_digest)
            for c in charges
        ):
            raise Refused(
                "same-model-twice",
                "without differential privacy a hospital contributes once to the same global model, because two sums "
                "over different hospitals could be subtracted",
                fix="start a new run, or use a privacy mode with noise",
            )
        return spent

    # What it keeps

    def _terms(self, run_id: bytes) -> secagg.Terms:
        federation, privacy = self.study.federation, self.study.privacy
        return secagg.Terms(
            run_id, self.study.digest, self.roster.keys, federation.min_contributors, privacy.max_colluding
        )

    def _state_path(self, run_id: bytes) -> Path:
        return self.directory / "runs" / f"{run_id.hex()}.state"

    def _load(self, request: wire.ContributeRequest) -> secagg.Ready:
        """The protocol state after set-up; the keys of the others come with the first request that needs them."""
        try:
            state = secagg.load(self._state_path(request.run_id).read_bytes())
        except FileNotFoundError:
            raise Refused("unknown-run", "no set-up for this run", fix="start a new run") from None
        if state.terms != self._terms(request.run_id):
            raise Refused(
                "approval-changed",
                "study or roster were approved anew since this run was set up",
                where="approved",
                fix="start a new run",
            )
        return state if isinstance(state, secagg.Ready) else secagg.finish_setup(state, request.relay)

    def _save(self, run_id: bytes, state: secagg.State) -> None:
        write_synced(self._state_path(run_id), secagg.dump(state), mode=0o600)

    def _log(self, kind: str, header: bytes, epsilon: float, masked: npt.NDArray[np.uint32] | None = None) -> None:
        """One line for each message that leaves, before it leaves."""
        digest, size = hashlib.sha256(header), len(header)
        if masked is not None:
            digest.update(np.ascontiguousarray(masked).data)
            size += masked.nbytes
        line = {
            "time": self._now().isoformat(timespec="seconds"),
            "to": "coordinator",
            "kind": kind,
            "bytes": size,
            "sha256": digest.hexdigest(),
            "epsilon": None if math.isinf(epsilon) else round(epsilon, 6),
        }
        self._append("log.jsonl", json.dumps(line))

    def refuse(self, error: Exception) -> wire.Refusal:
        """The answer to a request that failed: one word. The rest is kept here, for the hospital's own people."""
        known = isinstance(error, FedmodelsError)
        text = str(error) if known else "".join(traceback.format_exception(error))
        self._append("errors.log", f"{self._now().isoformat(timespec='seconds')} {text}")
        rule = error.rule if isinstance(error, Refused) else type(error).__name__ if known else "internal-error"
        self._log("refusal", rule.encode(), 0.0)
        return wire.Refusal(rule)

    def _append(self, file: str, line: str) -> None:
        with (self.directory / file).open("a", encoding="utf-8") as log:
            log.write(line + "\n")
            log.flush()
            os.fsync(log.fileno())
