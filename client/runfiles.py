"""What a hospital keeps of one run on disk: protocol state, last upload, noisy evaluation counts."""

import hashlib
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedmodels import secagg
from fedmodels.files import write_synced

Vector = npt.NDArray[np.uint32]


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

    def keep_upload(self, upload: secagg.Upload) -> None:
        """Keep what is about to leave, masked as it is, for the same request again.

        Without it a lost reply is a dropout, nothing worse, so it is not synced.
        """
        path = self._folder / f"{self._name}.upload"
        part = path.with_suffix(".part")
        part.write_bytes(len(upload.header).to_bytes(8, "big") + upload.header + upload.vector.tobytes())
        part.replace(path)

    def last_upload(self) -> secagg.Upload:
        data = (self._folder / f"{self._name}.upload").read_bytes()
        size = 8 + int.from_bytes(data[:8], "big")
        return secagg.Upload(data[8:size], np.frombuffer(data[size:], np.uint32))

    def _counts(self, model: npt.NDArray[np.float32]) -> Path:
        digest = hashlib.sha256(np.ascontiguousarray(model).data).hexdigest()
        return self._folder / f"{self._name}.{digest[:16]}.counts.npy"

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


def forget_unfinished(folder: Path) -> None:
    """Remove set-ups that never became a run, so that asking for set-ups does not fill the disk."""
    for path in folder.glob("*.state"):
        if isinstance(secagg.load(path.read_bytes()), secagg.Announced):
            path.unlink()
