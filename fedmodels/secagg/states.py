"""The states of a contributor, and `TRANSITIONS`: the one table of all legal (state, event) pairs.

A refused event raises and changes nothing, because states are immutable. Python cannot overwrite memory, so "erased"
means: no longer part of the state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from fedmodels.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from fedmodels.secagg.messages import Shares
from fedmodels.secagg.primitives import Confidential, Secret
from fedmodels.secagg.terms import Mode, Terms


@dataclass(frozen=True)
class Announced(Confidential):
    """The set-up key is made. `message` may be sent again after a lost connection; `secret` is its X25519 half."""

    terms: Terms
    name: str
    secret: Secret
    message: bytes


@dataclass(frozen=True)
class Ready(Confidential):
    """Set-up is done. `chains` holds one key per peer, advanced to session number `next_session`.

    answered: digest of the request that the last upload answered, see `is_repeat`; empty before the first.
    """

    terms: Terms
    name: str
    transcript: bytes
    next_session: int
    chains: Mapping[str, Secret]
    answered: bytes = b""


@dataclass(frozen=True)
class Round(Confidential):
    """What a contributor keeps of an upload in order to unmask: its own self mask is not part of it.

    session_digest: h. pair_seeds: by peer. share_keys: by dealer, they open the shares sealed for this contributor.
    """

    session_digest: bytes
    contributors: tuple[str, ...]
    pair_seeds: Mapping[str, Secret]
    share_keys: Mapping[str, Secret]
    own_share: Secret


@dataclass(frozen=True)
class _InSession(Confidential):
    """A `recover` session after the upload; `ready` is what the next session starts from."""

    ready: Ready

    @property
    def terms(self) -> Terms:
        return self.ready.terms

    @property
    def name(self) -> str:
        return self.ready.name


@dataclass(frozen=True)
class Uploaded(_InSession):
    """The masked vector is out, no secret is."""

    round: Round


@dataclass(frozen=True)
class PairsRevealed(_InSession):
    """The pair seeds shared with `dropped` (D, never empty) are out, so no share of D's self masks ever will be."""

    round: Round
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Unmasked(_InSession):
    """The shares of the survivors' self masks are out; all keys of the round are erased.

    answered: digest of the request. reply: the answer to it, kept so that the same request gets the same answer.
    """

    answered: bytes
    reply: Shares


State = Announced | Ready | Uploaded | PairsRevealed | Unmasked
SetUp = Ready | Uploaded | PairsRevealed | Unmasked
S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Transition(Generic[S]):
    """`event` is legal in states of the types `before`, under terms of the kinds `modes`, and leads to `after`.

    error: raised elsewhere; it says whose fault that is. Only a coordinator can ask to reveal something too early or
    too late.
    """

    event: str
    before: tuple[type[S], ...]
    after: type[State]
    modes: tuple[Mode, ...]
    error: type[ProtocolError] = LocalProtocolError


FINISH_SETUP: Final = Transition("finish_setup", (Announced,), Ready, ("retry", "recover"))
UPLOAD: Final = Transition("upload", (Ready,), Ready, ("retry",))
UPLOAD_RECOVER: Final[Transition[SetUp]] = Transition(
    "upload_recover", (Ready, Uploaded, PairsRevealed, Unmasked), Uploaded, ("recover",)
)
REVEAL_PAIRS: Final[Transition[Uploaded | PairsRevealed]] = Transition(
    "reveal_pairs", (Uploaded, PairsRevealed), PairsRevealed, ("recover",), RemoteProtocolError
)
REVEAL_SHARES: Final[Transition[Uploaded | PairsRevealed | Unmasked]] = Transition(
    "reveal_shares", (Uploaded, PairsRevealed, Unmasked), Unmasked, ("recover",), RemoteProtocolError
)
TRANSITIONS: Final = (FINISH_SETUP, UPLOAD, UPLOAD_RECOVER, REVEAL_PAIRS, REVEAL_SHARES)
"""An `Unmasked` contributor has no row for `reveal_pairs`: no pair seed after step B, whatever is asked. From there,
`reveal_shares` only repeats its answer. A new upload abandons the session before it, and erases its keys."""


def enter(transition: Transition[S], state: State) -> S:
    """The state, if the table allows the event in it; else the error that the table names."""
    if not isinstance(state, transition.before) or state.terms.on_dropout not in transition.modes:
        needed = " or ".join(type_.__name__ for type_ in transition.before)
        raise transition.error(
            f"`{transition.event}` is not allowed in state {type(state).__name__} of a `{state.terms.on_dropout}` run",
            where=f"hospital {state.name}",
            fix=f"it needs state {needed} of a `{'` or `'.join(transition.modes)}` run",
        )
    return state


def ready_of(state: SetUp) -> Ready:
    """What the next upload starts from."""
    return state if isinstance(state, Ready) else state.ready
