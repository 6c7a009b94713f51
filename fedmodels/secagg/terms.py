"""What a party pins locally before a run, and everything that the parties hash and sign together."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType

from fedmodels.errors import LocalProtocolError, RemoteProtocolError
from fedmodels.secagg.messages import MAX_HOSPITALS, SessionRequest, SetupKey
from fedmodels.secagg.primitives import KEY_BYTES, Label, digest, ed25519_verifies

RUN_ID_BYTES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Terms:
    """The terms of one run, from files that the party's own people approved; nothing is adopted from the coordinator.

    run_id: 16 bytes, new for every run. study_digest: 32 bytes, see `Study.digest`. roster: name -> Ed25519 public
    key of every hospital. min_contributors: fewest hospitals in any sum. max_colluding: hospitals c that may pool
    what they know with the coordinator.

    Formal guarantee: every sum that opens is over at least min_contributors hospitals, so at least
    min_contributors - c honest ones. Refused (`LocalProtocolError`) when that is below 2, since the colluding
    hospitals could subtract themselves and read the single honest one (Bonawitz et al. 2017, section 6).

    Run id, study and roster are signed and bound into every key. The two thresholds are not: a hospital may demand
    more than its peers do.
    """

    run_id: bytes
    study_digest: bytes
    roster: Mapping[str, bytes]
    min_contributors: int
    max_colluding: int

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
        return ""

    @cached_property
    def digest(self) -> bytes:
        """Binds run id, study and roster."""
        entries = [part for name, key in self.roster.items() for part in (name.encode(), key)]
        return digest(Label.TERMS, self.run_id, self.study_digest, digest(Label.ROSTER, *entries))


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
            "the signature of its set-up key does not fit this run, study and roster",
            where=f"hospital {message.sender}",
            fix="compare run id, study, roster and identity key with this hospital's",
        )


def transcript(terms: Terms, keys: Mapping[str, bytes]) -> bytes:
    """T0: binds the terms and every hospital's ephemeral public key, in ascending order of name."""
    return digest(
        Label.TRANSCRIPT, terms.digest, *[part for name in sorted(keys) for part in (name.encode(), keys[name])]
    )


def session_digest(transcript: bytes, request: SessionRequest, model_digest: bytes) -> bytes:
    """h: binds set-up, session number, global model with its round parameters, and the contributors U."""
    names = [name.encode() for name in request.contributors]
    return digest(Label.SESSION, transcript, request.session.to_bytes(8, "big"), model_digest, *names)


def contributors_problem(terms: Terms, contributors: tuple[str, ...]) -> str:
    """Why U cannot be the contributors of a session, or an empty string."""
    if any(first >= second for first, second in pairwise(contributors)):
        return "the contributors are not in ascending order of name, each once"
    if not terms.roster.keys() >= set(contributors):
        return "a contributor is not on the roster"
    if len(contributors) < terms.min_contributors:
        return f"{len(contributors)} contributors are asked, at least {terms.min_contributors} are needed"
    return ""
