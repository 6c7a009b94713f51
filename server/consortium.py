"""The hospitals of a run as the coordinator sees them: who is there, and the secure sums over them.

The coordinator only ever holds signed public keys, masked vectors and their sums. Hospitals that fail to contribute are
away until they answer again; a sum is asked of those who are present. Those proven to have lied about the secrets of a
`recover` round are left out from then on, whatever they answer.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmodels import secagg, wire
from fedmodels.errors import RemoteProtocolError, RoundAborted, RunError, WrongShares
from fedmodels.joining import verify_presence
from fedmodels.study import Roster, Study
from server.checkpoint import Checkpoint, Journal
from server.exchange import NODE_FAILED, NODE_LOST, Answer, Exchange
from server.heads import Heads
from server.kept import Kept
from server.records import Clock, Dropout

_NODE_POLL_SECONDS = 0.2
_RUN_ID_BYTES = _NONCE_BYTES = 16
_QUICK_SECONDS = 30.0  # for an answer that needs no work at the hospital

Vector = npt.NDArray[np.uint32]
Session = secagg.Session | secagg.RecoverSession


class Consortium:
    """Set-up once, then any number of sums. directory: of the run, for uploads of a `recover` session."""

    def __init__(
        self,
        study: Study,
        roster: Roster,
        exchange: Exchange,
        directory: Path,
        journal: Journal | None = None,
    ) -> None:
        self._study, self._roster, self._exchange, self._journal = study, roster, exchange, journal
        self._directory = directory
        self._heads = Heads(roster, journal)
        self._aggregator = secagg.Aggregator(wire.terms(study, roster, os.urandom(_RUN_ID_BYTES)))
        self._nodes: dict[str, int] = {}
        self._away: set[str] = set()
        self._informed: set[str] = set()  # hospitals that have all keys
        self.liars: set[str] = set()  # away for the rest of the run
        self.dropouts: list[Dropout] = []
        self.asked = dict.fromkeys(roster.sizes, 0)  # training uploads that each hospital may have charged
        self.clock = Clock()

    @property
    def run_id(self) -> bytes:
        return self._aggregator.terms.run_id

    @property
    def next_session(self) -> int:
        return self._aggregator.next_session

    @property
    def keys(self) -> bytes:
        """The signed keys of all hospitals, once the set-up is over."""
        return secagg.relay(self._aggregator)

    @property
    def ready(self) -> bool:
        return not self._aggregator.missing

    @property
    def present(self) -> tuple[str, ...]:
        """The hospitals that are not away, in roster order."""
        return tuple(name for name in self._roster.sizes if name not in self._away)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run that was set up before. All hospitals are away until they answer."""
        terms = wire.terms(self._study, self._roster, checkpoint.run_id)
        self._aggregator = secagg.resume(terms, checkpoint.keys, checkpoint.next_session)
        self._away = set(self._roster.sizes)
        self.liars = set(checkpoint.liars)
        self.dropouts, self.asked = list(checkpoint.dropouts), dict(checkpoint.asked)
        self.clock.totals.update(checkpoint.seconds)

    def set_up(self) -> None:
        """Collect every hospital's signed key; `RunError` names those that did not answer in time, and why."""
        start = time.monotonic()
        deadline = start + self._study.federation.timeout_seconds
        request = wire.SetupRequest(self.run_id, self._study.digest, self._roster.digest, self._heads.all())
        problems: dict[int, str] = {}
        while self._aggregator.missing and (left := deadline - time.monotonic()) > 0:
            silent = set(self._exchange.nodes()) - problems.keys() - set(self._nodes.values())
            if not silent and problems and len(problems) + len(self._nodes) >= len(self._roster.hospital):
                break  # everyone is here and somebody cannot take part: waiting will not change that
            for answer in self._exchange.ask(dict.fromkeys(silent, request), min(left, _QUICK_SECONDS)):
                if problem := self._greet(answer):
                    problems[answer.node] = problem
            if not silent:
                time.sleep(_NODE_POLL_SECONDS)
        if self._aggregator.missing:
            raise RunError(
                "the run cannot start without " + ", ".join(self._aggregator.missing),
                where="set-up" + (f" ({'; '.join(sorted(set(problems.values())))})" if problems else ""),
                fix="see errors.log at these hospitals; a run needs every hospital of its roster at the start",
            )
        self.clock.spend("waiting", start)

    def _greet(self, answer: Answer) -> str:
        """Take one answer to the set-up request; returns what is wrong with it. A lost answer is asked for again."""
        if not isinstance(answer.reply, wire.SetupReply):
            return answer.reason if isinstance(answer.reply, wire.Refusal) else ""
        hospital, known = answer.reply.hospital, self._nodes.get(answer.reply.hospital, answer.node)
        try:
            self._heads.check(hospital, answer.reply.head)
            collected = secagg.collect(self._aggregator, answer.reply.key_message)
        except RemoteProtocolError as error:
            return error.what
        if hospital not in collected.keys.keys() - self._aggregator.keys.keys() or known != answer.node:
            return "it gave another hospital's name or key"
        self._aggregator = collected
        self._nodes[hospital] = answer.node
        self._heads.note(hospital, answer.reply.head)
        return ""

    def gather(self, *, again: bool = False) -> None:
        """Ask those who are away whether they are back, and wait while too few are present.

        again: a round is run again, for which those who are away are asked only if the others are too few.

        Too few are less than `min_contributors` (`recover`: the threshold); without privacy, where a `retry` round is
        over the whole roster, any less than all. `RunError` where they are still too few after the study's time-out,
        and at once where too few are left beside those who lied.
        """
        start = time.monotonic()
        least, limit = self._least, self._study.federation.timeout_seconds
        if (left := len(self._roster.sizes) - len(self.liars)) < least:
            raise RunError(
                f"only {left} hospitals may still take part, {least} are needed for a sum",
                where=f"left out because they gave wrong shares: {', '.join(sorted(self.liars))}",
                fix="find out at these hospitals what happened, then start a new run",
            )
        if self._away and not again:
            self._ask_away()
        while len(self.present) < least and time.monotonic() - start < limit:
            time.sleep(_NODE_POLL_SECONDS)
            self._ask_away()
        self.clock.spend("waiting", start)
        if len(self.present) < least:
            raise RunError(
                f"only {len(self.present)} hospitals are reachable, {least} are needed for a sum",
                where=f"away: {', '.join(sorted(self._away))}",
                fix="see that these hospitals' nodes run, then start a new run",
            )

    @property
    def _least(self) -> int:
        federation = self._study.federation
        if federation.on_dropout == "recover":
            return max(self._study.threshold, federation.min_contributors)
        return len(self._roster.hospital) if self._study.privacy.mode == "none" else federation.min_contributors

    def _ask_away(self) -> None:
        """Ask the nodes of those who are away, and, in a resumed run, nodes of which it is not known whose they are."""
        away = self._away - self.liars
        unknown = away - self._nodes.keys()
        known = [self._nodes[name] for name in sorted(away - unknown)]
        strangers = set(self._exchange.nodes()) - set(self._nodes.values()) if unknown else set()
        request = wire.PresenceRequest(self.run_id, os.urandom(_NONCE_BYTES))
        for answer in self._exchange.ask(dict.fromkeys([*known, *sorted(strangers)], request), _QUICK_SECONDS):
            if not isinstance(answer.reply, wire.PresenceReply):
                continue
            hospital, signature = answer.reply.hospital, answer.reply.signature
            if hospital not in away or not verify_presence(
                self._roster.keys[hospital], self.run_id, request.nonce, signature
            ):
                continue  # one node must not answer in the name of another's hospital
            if answer.node in strangers and hospital in unknown:
                unknown.discard(hospital)
                self._nodes[hospital] = answer.node
            if self._nodes.get(hospital) == answer.node:
                self._away.discard(hospital)

    def sum(
        self, kind: wire.Kind, number: int, model: npt.NDArray[np.float32], words: int
    ) -> tuple[Vector, tuple[str, ...]]:
        """The sum of one contribution of each of the hospitals present, and whose contributions it is made of.

        With `retry` these are all who were asked, with `recover` those who did not drop out; `RoundAborted` names who
        is missing where nothing opens. Whoever dropped out is away afterwards, and `dropouts` says why.
        """
        session = self._open(kind, number, model, words)
        relay = b"" if self._informed >= set(self.present) else secagg.relay(self._aggregator)
        request = wire.ContributeRequest(self.run_id, kind, number, session.request, relay, self._heads.all())
        reasons = dict.fromkeys(self.present, "no answer in time")
        with Kept(self._directory) as kept:
            try:
                self._collect(session, request, model, kept, reasons)
                if isinstance(session, secagg.RecoverSession):
                    self._unmask(session, kept, reasons)
                total = session.result()
            except RoundAborted as error:
                self._lose(error.missing, number, kind, reasons)
                raise
            except WrongShares as error:
                self.liars |= set(error.liars)
                reasons |= dict.fromkeys(error.liars, f"it gave {error.what}")
                self._lose(_dropped(session) + error.liars, number, kind, reasons)
                self._keep_session(self.next_session)
                raise
            finally:
                self._heads.keep()
        contributors = session.survivors if isinstance(session, secagg.RecoverSession) else self.present
        self._lose(_dropped(session), number, kind, reasons)
        return total, contributors

    def _open(self, kind: wire.Kind, number: int, model: npt.NDArray[np.float32], words: int) -> Session:
        weights, session = wire.weights_digest(model), self._aggregator.next_session
        digest = wire.model_digest(kind, number, model.size, weights)
        self._keep_session(session + 1)
        arguments = (self._aggregator, session, self.present, digest, words)
        opened: Session
        if self._study.federation.on_dropout == "recover":
            self._aggregator, opened = secagg.open_recovery(*arguments)
        else:
            self._aggregator, opened = secagg.open_session(*arguments)
        return opened

    def _keep_session(self, following: int) -> None:
        if self._journal:
            self._journal.keep_session(following, (d for d in self.dropouts if d.hospital in self.liars))

    def _collect(
        self,
        session: Session,
        request: wire.ContributeRequest,
        model: npt.NDArray[np.float32],
        kept: Kept,
        reasons: dict[str, str],
    ) -> None:
        """Ask for uploads, and once more those whose answer is missing.

        A hospital whose node was killed trains again, in as much time as before; one that only its answer was lost of
        has it on disk.
        """
        purpose = "training" if request.kind == "train" else "waiting"
        timeout, before = self._study.federation.timeout_seconds, dict(reasons)
        for attempt in range(2):
            silent = {self._nodes[n]: n for n in session.missing if not reasons[n].startswith("refused")}
            start = time.monotonic()
            for answer in self._exchange.ask(dict.fromkeys(silent, request), timeout, model):
                now, name = self.clock.spend(purpose, start), silent[answer.node]
                reasons[name] = self._add(session, answer, name)
                if name not in session.missing and answer.array is not None:
                    self._informed.add(name)
                    if isinstance(session, secagg.RecoverSession):
                        kept.put(name, answer.array)
                del answer  # its vector is in the sum: it makes room before the next one is decoded
                start = self.clock.spend("aggregation", now)
            self.clock.spend("waiting", start)
            if request.kind == "train":
                self._count(silent.values(), before if attempt else {}, reasons)
            before = dict(reasons)
            if not {NODE_LOST, NODE_FAILED} & {reasons[name] for name in session.missing}:
                timeout = _QUICK_SECONDS

    def _count(self, asked: Iterable[str], before: dict[str, str], after: dict[str, str]) -> None:
        """Count uploads that may have been charged: one each, and one more where a node failed and trained again."""
        for name in asked:
            again = before.get(name) in (NODE_LOST, NODE_FAILED) and after[name] != NODE_LOST
            self.asked[name] += not before or again

    def _add(self, session: Session, answer: Answer, name: str) -> str:
        """Add a contribution; returns why it could not be, or an empty string."""
        if not isinstance(answer.reply, wire.ContributeReply) or answer.array is None:
            return answer.reason
        try:
            self._heads.check(name, answer.reply.head)
            secagg.check_sender(answer.reply.header, name)
            session.add(answer.reply.header, answer.array)
        except RemoteProtocolError as error:
            return error.what
        self._heads.note(name, answer.reply.head)
        return ""

    def _unmask(self, session: secagg.RecoverSession, kept: Kept, reasons: dict[str, str]) -> None:
        """Steps A and B: what the masks that did not cancel were, from those who are still there."""
        start = time.monotonic()
        while requests := session.advance(kept.get):
            start = self.clock.spend("aggregation", start)
            nodes = {self._nodes[name]: name for name in requests}
            messages = {node: wire.UnmaskRequest(self.run_id, requests[name]) for node, name in nodes.items()}
            for answer in self._exchange.ask(messages, _QUICK_SECONDS):
                name = nodes[answer.node]
                reasons[name] = _answer(session, answer, name)
            start = self.clock.spend("waiting", start)
        self.clock.spend("aggregation", start)

    def _lose(self, names: tuple[str, ...], number: int, kind: wire.Kind, reasons: dict[str, str]) -> None:
        self._away |= set(names)
        self.dropouts += [Dropout(number, kind, name, reasons[name] or "no answer in time") for name in names]


def _dropped(session: Session) -> tuple[str, ...]:
    """Whose uploads are not in what the session opens; in a `retry` session, that is nobody."""
    return session.dropped if isinstance(session, secagg.RecoverSession) else ()


def _answer(session: secagg.RecoverSession, answer: Answer, name: str) -> str:
    """Take what the hospital `name` reveals; returns why it could not be, or an empty string."""
    if not isinstance(answer.reply, wire.UnmaskReply):
        return answer.reason
    try:
        secagg.check_sender(answer.reply.message, name)
        session.answer(answer.reply.message)
    except RemoteProtocolError as error:
        return error.what
    return ""
