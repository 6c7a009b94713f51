"""What a coordinator keeps on disk so that killing it at any moment loses no finished round.

In the run directory: `session`, the smallest session number not yet used, written before a session opens, and who is
proven to have lied, written when that is found; and `checkpoint.safetensors`, everything else, written when a set-up
and when a round is over, before anybody hears of it. Beside all runs: `heads.json`, the last signed ledger head of each
hospital (see `fedmodels.joining.sign_head`). All three are replaced as a whole and synced. A simulation keeps nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedmodels.errors import RunError
from fedmodels.files import write_synced
from fedmodels.typed import Strict
from server.optimiser import ServerState
from server.records import Dropout, RoundLine

_CHECKPOINT, _SESSION = "checkpoint.safetensors", "session"
_MOMENTS = ("average", "first", "second")


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A run after its set-up or after a round. keys: the signed keys of all hospitals; next_session: of secure
    aggregation; asked: training uploads that each hospital may have charged; line: of the last round; liars: hospitals
    that are left out; lost: sessions that were opened since."""

    run_id: bytes
    keys: bytes
    next_session: int
    state: ServerState
    retries: int
    asked: Mapping[str, int]
    dropouts: tuple[Dropout, ...]
    seconds: Mapping[str, float]
    line: RoundLine | None = None
    liars: tuple[str, ...] = ()
    lost: int = 0

    @property
    def round(self) -> int:
        """Finished training rounds."""
        return self.line.round if self.line else 0


class _About(Strict, frozen=True):
    """The part of a checkpoint that is not arrays."""

    run_id: bytes
    keys: bytes
    next_session: int
    retries: int
    asked: dict[str, int]
    dropouts: tuple[Dropout, ...]
    seconds: dict[str, float]
    line: RoundLine | None
    steps: int
    liars: tuple[str, ...] = ()


class _Session(Strict, frozen=True):
    """The file `session`. lies: the dropouts of hospitals that are proven to have lied."""

    next: int
    lies: tuple[Dropout, ...] = ()


class Journal:
    """The files of one run. directory: of the run; heads: the file of ledger heads."""

    def __init__(self, directory: Path, heads: Path) -> None:
        self._directory, self._heads = directory, heads

    def keep_session(self, next_session: int, lies: Iterable[Dropout]) -> None:
        """To be called before a session opens, with the number after its own, and when lies are found."""
        write_synced(self._directory / _SESSION, msgspec.json.encode(_Session(next_session, tuple(lies))))

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        state = checkpoint.state
        arrays = {"model": state.model}
        arrays |= {name: getattr(state, name) for name in _MOMENTS if _worth_keeping(name, state)}
        fields = {field: getattr(checkpoint, field) for field in _About.__struct_fields__ if field != "steps"}
        about = msgspec.json.encode(_About(steps=state.steps, **fields)).decode()
        write_synced(self._directory / _CHECKPOINT, save(arrays, metadata={"about": about}))

    def load(self) -> Checkpoint | None:
        """The checkpoint with the session numbers used since, None where the set-up was never finished.

        Sessions that were opened after the checkpoint are lost: each counts as an upload that every hospital was asked
        for, and as a retry.
        """
        path = self._directory / _CHECKPOINT
        if not path.exists():
            return None
        try:
            with safe_open(path, "np") as file:
                about = msgspec.json.decode(file.metadata()["about"], type=_About)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            checkpoint = _checkpoint(about, arrays)
            session = self._session()
        except (SafetensorError, ValueError, KeyError, TypeError):
            raise RunError(
                "the checkpoint cannot be read", where=str(path), fix="restore this folder, or begin a new run"
            ) from None
        lost = max(0, session.next - checkpoint.next_session)
        untold = tuple(lie for lie in session.lies if lie not in checkpoint.dropouts)
        return replace(
            checkpoint,
            next_session=checkpoint.next_session + lost,
            retries=checkpoint.retries - lost,
            asked={name: count + lost for name, count in checkpoint.asked.items()},
            dropouts=checkpoint.dropouts + untold,
            liars=tuple(sorted({*checkpoint.liars, *(lie.hospital for lie in session.lies)})),
            lost=lost,
        )

    def _session(self) -> _Session:
        path = self._directory / _SESSION
        return msgspec.json.decode(path.read_bytes(), type=_Session) if path.exists() else _Session(1)

    def forget(self) -> None:
        """Remove what only a run that goes on needs."""
        for name in (_CHECKPOINT, _SESSION):
            (self._directory / name).unlink(missing_ok=True)

    def keep_heads(self, heads: Mapping[str, bytes]) -> None:
        """Replace the ledger heads."""
        text = json.dumps({name: head.hex() for name, head in sorted(heads.items())}, indent=2)
        write_synced(self._heads, text.encode() + b"\n")

    def heads(self) -> dict[str, bytes]:
        """The ledger heads of all hospitals that ever contributed."""
        if not self._heads.exists():
            return {}
        try:
            return {name: bytes.fromhex(head) for name, head in json.loads(self._heads.read_text()).items()}
        except (ValueError, AttributeError, TypeError):
            raise RunError(
                "the ledger heads cannot be read", where=str(self._heads), fix="restore the file from a backup"
            ) from None


def _worth_keeping(name: str, state: ServerState) -> bool:
    """Moments that are all zero and an average that is the model need no room on disk."""
    array = getattr(state, name)
    return array is not state.model if name == "average" else bool(array.any())


def _checkpoint(about: _About, arrays: dict[str, Any]) -> Checkpoint:
    model = arrays["model"]
    nothing = np.zeros(model.size)
    state = ServerState(
        model,
        arrays.get("average", model),
        arrays.get("first", nothing),
        arrays.get("second", nothing),
        about.steps,
    )
    fields = {field: getattr(about, field) for field in _About.__struct_fields__ if field != "steps"}
    return Checkpoint(state=state, **fields)
