"""An upload as it left, or is about to: what its header says of the masked vector beside it."""

from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import Vector, checksum
from fedmodels.secagg.messages import RecoverHeader, UploadHeader, decode


def header_of(data: bytes) -> UploadHeader | None:
    """The header of either kind of round, None where `data` is no encoded one."""
    for kind in (UploadHeader, RecoverHeader):
        try:
            return decode(data, kind)
        except RemoteProtocolError:
            continue
    return None


def is_intact(header: UploadHeader, vector: Vector) -> bool:
    """Whether this is the vector that the header was made for."""
    return checksum(header.session_digest, header.sender, vector) == header.checksum
