"""What both kinds of session do with uploads: check them, and add them up in the memory of one vector."""

from typing import Generic, TypeVar

import numpy as np

from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import WORD, Vector, checksum, combine_checked, is_vector
from fedmodels.secagg.messages import SessionRequest, UploadHeader, decode

H = TypeVar("H", bound=UploadHeader)


class Uploads(Generic[H]):
    """The sum of the uploads so far, and the header of each. An upload that is refused leaves it as it was."""

    def __init__(self, request: SessionRequest, digest: bytes, words: int, header: type[H]) -> None:
        self.request, self.digest = request, digest
        self.sum: Vector = np.empty(words, WORD)  # the first upload fills it: it means nothing while there is none
        self.headers: dict[str, H] = {}
        self._type = header

    @property
    def missing(self) -> tuple[str, ...]:
        """The contributors whose upload is not here, in roster order."""
        return tuple(name for name in self.request.contributors if name not in self.headers)

    @property
    def where(self) -> str:
        return f"session {self.request.session}"

    def add(self, header: bytes, vector: Vector) -> None:
        """Add one upload: an encoded header and the vector beside it. The same upload again changes nothing.

        Raises `RemoteProtocolError`, naming the hospital, when the upload is not for this session (another number,
        model, list of contributors or set-up), damaged, or a second and different one.
        """
        upload = decode(header, self._type)
        if problem := self._problem(upload, vector):
            raise self.error(upload.sender, problem)
        if upload.sender in self.headers:
            intact = checksum(self.digest, upload.sender, vector) == upload.checksum
        else:
            intact = self._combine(np.add if self.headers else None, upload, vector)
        if not intact:
            raise self.error(upload.sender, "the upload was damaged on its way")
        self.headers[upload.sender] = upload

    def error(self, sender: str, problem: str) -> RemoteProtocolError:
        """A peer chose the name of the sender: it is quoted only where it is one that we know."""
        known = sender in self.request.contributors
        return RemoteProtocolError(
            problem,
            where=self.where + (f", hospital {sender}" if known else ""),
            fix="leave this hospital out and open a new session",
        )

    def _problem(self, upload: H, vector: Vector) -> str:
        if upload.sender not in self.request.contributors:
            return "an upload comes from a sender that is not one of the contributors"
        if upload.session != self.request.session:
            return f"the upload is for session {upload.session}"
        if upload.session_digest != self.digest:
            return "the upload was masked for another model, list of contributors or set-up"
        if self.headers.get(upload.sender, upload) != upload:
            return "it sent a second, different upload"
        if not self.fits(upload, vector):
            return f"the upload does not have {self.sum.size} words of uint32"
        return ""

    def fits(self, upload: H, vector: Vector) -> bool:
        return is_vector(vector) and vector.size == upload.words == self.sum.size

    def take_back(self, name: str, vector: Vector) -> bool:
        """Subtract an upload that was added; False, and no change, if `vector` is not the one that was."""
        header = self.headers[name]
        if not self.fits(header, vector) or not self._combine(np.subtract, header, vector):
            return False
        del self.headers[name]
        return True

    def _combine(self, operation: np.ufunc | None, header: H, vector: Vector) -> bool:
        return combine_checked(self.sum, operation, vector, self.digest, header.sender, header.checksum)
