"""What a party pins locally before a run, and everything that the parties hash and sign together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

from fedmodels.errors import LocalProtocolError, RemoteProtocolError
from fedmodels.secagg.messages import MAX_HOSPITALS, RecoverRequest, SessionRequest, SetupKey
from fedmodels.secagg.primitives import KEY_BYTES, Label, digest, ed25519_verifies

RUN_ID_BYTES = 16
Mode = Literal["retry", "recover"]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Terms:
    """The terms of one run, from files that the party's own people approved; nothing is adopted from the coordinator.

    run_id: 16 bytes, new for every run. study_digest: 32 bytes, see `Study.digest`. roster: name -> Ed25519 public
    key of every hospital. min_contributors: fewest hospitals in any sum. max_colluding: hospitals c that may pool
    what they know with the coordinator. on_dropout: the one kind of round that this hospital takes part in.
    threshold: `recover` only, the t of |U| hospitals that can remove masks, and so the fewest in any sum.

    Formal guarantee, whatever the coordinator claims to whom, in every sum that it can open of honest hospitals'
    vectors there are at least

        `retry`: min_contributors - c      `recover`: 2t - n - c, with n the size of the roster

    of them. Terms for which that is below 2 are refused (`LocalProtocolError`): the colluding hospitals could subtract
    themselves and read the single honest one. The second bound: to open a set S, the t holders of shares of its self
    masks are at most c colluders, S itself, and those hospitals whose pair seeds every member of S revealed, at most
    n - t (Bonawitz et al. 2017, section 6; bound checked by exhaustive search for n <= 10).

    Run id, study, roster, on_dropout and threshold are signed and bound into every key. min_contributors and
    max_colluding are not: a hospital may demand more than its peers do.
    """

    run_id: bytes
    study_digest: bytes
    roster: Mapping[str, bytes]
    min_contributors: int
    max_colluding: int
    on_dropout: Mode = "retry"
    threshold: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "roster", MappingProxyType(dict(sorted(self.roster.items()))))
        if problem := self._problem():
            raise LocalProtocolError(problem, where="terms of the run", fix="correct the study, roster or run id")

    def _problem(self) -> str:
        if len(self.run_id) != RUN_ID_BYTES or len(self.study_digest) != KEY_BYTES:
            return f"the run id needs {RUN_ID_BYTES} bytes and the study digest {KEY_BYTES}"
        if not all(_NAME.fullmatch(name) for name in self.roster):
            return "a hospital's name must be 1 to 64 of a-z, 0-9, _ and -, and begin with a letter or digit"
        if not all(len(key) == KEY_BYTES for key in self.roster.values()):
            return f"every identity key of the roster needs {KEY_BYTES} bytes"
        if len(set(self.roster.values())) != len(self.roster):
            return "two hospitals of the roster have the same identity key"
        if self.max_colluding < 0 or self.min_contributors - self.max_colluding < 2:
            return (
                f"{self.min_contributors} contributors of whom {self.max_colluding} may collude leave fewer than 2 "
                "honest ones, and one hospital could be singled out by subtracting the others"
            )
        if not self.min_contributors <= len(self.roster) <= MAX_HOSPITALS:
            return f"the roster has {len(self.roster)} hospitals, not {self.min_contributors} to {MAX_HOSPITALS}"
        return self._recover_problem() if self.on_dropout == "recover" else self._retry_problem()

    def _retry_problem(self) -> str:
        if self.on_dropout != "retry":
            return "on_dropout must be `retry` or `recover`"
        return "a threshold is for on_dropout `recover`" if self.threshold is not None else ""

    def _recover_problem(self) -> str:
        n, t, c = len(self.roster), self.threshold, self.max_colluding
        if t is None or not 1 <= t <= n:
            return f"on_dropout `recover` needs a threshold of 1 to {n}"
        if 2 * t - n - c < 2:
            return (
                f"with threshold {t} of {n} hospitals, {c} colluding, a coordinator that lies about who dropped out "
                f"could isolate {max(2 * t - n - c, 1)} hospital: 2 * threshold - {n} - {c} must be at least 2, so the "
                f"threshold at least {(n + c + 3) // 2}"
            )
        return ""

    @property
    def least(self) -> int:
        """The fewest contributors of a session, and the fewest survivors."""
        return max(self.min_contributors, self.threshold or 0)

    @cached_property
    def digest(self) -> bytes:
        """Binds run id, study, roster, and what to do on a dropout."""
        entries = [part for name, key in self.roster.items() for part in (name.encode(), key)]
        parts = (self.run_id, self.study_digest, digest(Label.ROSTER, *entries))
        if self.threshold is None:
            return digest(Label.TERMS, *parts)
        return digest(Label.TERMS_RECOVER, *parts, self.threshold.to_bytes(8, "big"))


def setup_statement(terms: Terms, name: str, key: bytes) -> bytes:
    """What hospital `name` signs about its ephemeral public key."""
    return digest(Label.SETUP, terms.digest, name.encode(), key)


def check_setup_key(terms: Terms, message: SetupKey) -> None:
    """Raise `RemoteProtocolError` unless a hospital of the roster signed this key for exactly these terms."""
    identity = terms.roster.get(message.sender)
    if identity is None:
        raise RemoteProtocolError(
            "a set-up key comes from a sender that is not on the roster",
            where="set-up",
            fix="approve a roster that has this hospital, or exclude it from the run",
        )
    if not ed25519_verifies(identity, message.signature, setup_statement(terms, message.sender, message.key)):
        raise RemoteProtocolError(
            "the signature of its set-up key does not fit this run, study, roster and threshold",
            where=f"hospital {message.sender}",
            fix="compare run id, study, roster, threshold and identity key with this hospital's",
        )


def transcript(terms: Terms, keys: Mapping[str, bytes]) -> bytes:
    """T0: binds the terms and every hospital's ephemeral public key, in ascending order of name."""
    return digest(
        Label.TRANSCRIPT, terms.digest, *[part for name in sorted(keys) for part in (name.encode(), keys[name])]
    )


def session_digest(transcript: bytes, request: SessionRequest, model_digest: bytes) -> bytes:
    """h: binds set-up, kind of round, session number, global model with its round parameters, and contributors U."""
    names = [name.encode() for name in request.contributors]
    label = Label.SESSION_RECOVER if isinstance(request, RecoverRequest) else Label.SESSION
    return digest(label, transcript, request.session.to_bytes(8, "big"), model_digest, *names)


def contributors_problem(terms: Terms, contributors: tuple[str, ...]) -> str:
    """Why U cannot be the contributors of a session, or an empty string."""
    if not is_ascending(contributors):
        return "the contributors are not in ascending order of name, each once"
    if not terms.roster.keys() >= set(contributors):
        return "a contributor is not on the roster"
    if len(contributors) < terms.least:
        return f"{len(contributors)} contributors are asked, at least {terms.least} are needed"
    return ""


def dropped_problem(terms: Terms, contributors: tuple[str, ...], dropped: tuple[str, ...]) -> str:
    """Why D cannot have dropped out of U, or an empty string."""
    if not is_ascending(dropped) or not set(dropped) <= set(contributors):
        return "the dropped hospitals are not contributors in ascending order of name, each once"
    if len(contributors) - len(dropped) < terms.least:
        return f"{len(contributors) - len(dropped)} hospitals are left, at least {terms.least} are needed"
    return ""


def is_ascending(names: tuple[str, ...]) -> bool:
    """Whether the names are in ascending order, each once."""
    return all(first < second for first, second in pairwise(names))
