"""What a hospital keeps of one run on disk: protocol state, last upload, noisy evaluation counts."""

import hashlib
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.uploads import header_of, is_intact
from fedmodels import secagg, wire
from fedmodels.errors import LocalProtocolError, RemoteProtocolError, RunError
from fedmodels.files import write_quickly, write_synced
from fedmodels.secagg.keystream import WORD, Vector


class RunFiles:
    """The files of one run in the site's folder `runs`. State and counts are secret (0600) and synced."""

    def __init__(self, folder: Path, run_id: bytes) -> None:
        self._folder, self._name = folder, run_id.hex()

    @property
    def _state(self) -> Path:
        return self._folder / f"{self._name}.state"

    def load(self) -> secagg.State | None:
        """The protocol state as last saved, None before set-up."""
        return secagg.load(self._state.read_bytes()) if self._state.exists() else None

    def save(self, state: secagg.State) -> None:
        write_synced(self._state, secagg.dump(state), mode=0o600)

    @property
    def upload(self) -> Path:
        """What left last: the encoded reply and, after it, the bytes of the masked vector."""
        return self._folder / f"{self._name}.upload"

    @property
    def _reply(self) -> Path:
        return self._folder / f"{self._name}.reply"

    def keep_upload(self, reply: bytes, vector: Vector) -> None:
        """Keep what is about to leave, masked as it is, for the same request again; always as a new file.

        Without it a lost reply is a dropout, nothing worse, so it is not synced.
        """
        write_quickly(self._reply, reply)
        write_quickly(self.upload, reply, np.ascontiguousarray(vector).data)

    def last_upload(self) -> tuple[bytes, Vector]:
        """What `keep_upload` kept last; `RunError` where a crash of the machine has spoilt it."""
        reply, data = (path.read_bytes() if path.exists() else b"" for path in (self._reply, self.upload))
        vector = _vector_behind(reply, data)
        if vector is None:
            raise RunError("the last upload was lost", where=str(self.upload), fix="nothing: it counts as a dropout")
        return reply, vector

    def _counts(self, model: npt.NDArray[np.float32]) -> Path:
        return self._folder / f"{self._evaluation(model)}.counts.npy"

    def _evaluation(self, model: npt.NDArray[np.float32]) -> str:
        return f"{self._name}.{hashlib.sha256(np.ascontiguousarray(model).data).hexdigest()}"

    @property
    def _begun(self) -> Path:
        return self._folder / "evaluation"

    def begin_counts(self, model: npt.NDArray[np.float32]) -> None:
        """To be called before the counts of this model are charged. Only the evaluation begun last is remembered."""
        write_synced(self._begun, self._evaluation(model).encode(), mode=0o600)

    def counts_begun(self, model: npt.NDArray[np.float32]) -> bool:
        """Whether the charge on the ledger, if there is one, was for the counts of this very model.

        A crash after the charge then costs nothing more. For another model it would: failing on purpose for chosen
        patients, model after model, would say whether they are there.
        """
        return self._begun.exists() and self._begun.read_bytes() == self._evaluation(model).encode()

    def counts(self, model: npt.NDArray[np.float32]) -> Vector | None:
        """The noisy evaluation counts of this model, where they were drawn before."""
        path = self._counts(model)
        if not path.exists():
            return None
        kept: Vector = np.load(path, allow_pickle=False)
        return kept

    def keep_counts(self, model: npt.NDArray[np.float32], counts: Vector) -> None:
        buffer = io.BytesIO()
        np.save(buffer, counts)
        write_synced(self._counts(model), buffer.getvalue(), mode=0o600)


def _vector_behind(reply: bytes, data: bytes) -> Vector | None:
    """The masked vector after an encoded reply in `data`, None unless both are whole."""
    try:
        message = wire.decode_reply(reply)
    except RemoteProtocolError:
        return None
    header = header_of(message.header) if isinstance(message, wire.ContributeReply) else None
    if header is None or not data.startswith(reply) or len(data) - len(reply) != header.words * WORD.itemsize:
        return None
    vector = np.frombuffer(data, WORD, offset=len(reply))
    return vector if is_intact(header, vector) else None


def forget_unfinished(folder: Path) -> None:
    """Remove set-ups that never became a run, so that asking for set-ups does not fill the disk.

    A state that is damaged or of another release is of a run that cannot go on; it is passed over, and stays.
    """
    for path in folder.glob("*.state"):
        with suppress(LocalProtocolError):
            if isinstance(secagg.load(path.read_bytes()), secagg.Announced):
                path.unlink()
