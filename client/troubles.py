"""Why a hospital's node cannot reach its coordinator, in plain words with what to do; and whom it trusts."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx

from fedmodels.errors import FedmodelsError, FileError

_CLOCK_AHEAD, _CLOCK_BEHIND = 4.0, 304.0  # seconds that Flower bears, less one for how coarse an HTTP date is
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_*
_WRONG_NAME = (62, 64)
_MAKE_ROOM = "make room, or correct its permissions"


def trust(ca: str) -> ssl.SSLContext:
    """TLS that accepts certificates of this CA (PEM) alone; `FileError` where it is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise FileError("no CA certificate in PEM", where="invitation", fix="ask for the invitation again") from None
    return context


def explain(error: Exception, address: str, ahead: float) -> str:
    """What happened, whose fault it is and what to do. ahead: seconds of this clock before the coordinator's."""
    what, fix = _reason(error, ahead)
    return f"{address}: {what}\n  -> {fix}"


def unlogged(error: Exception) -> str:
    """Why not even a refusal could be logged, and what to do."""
    if isinstance(error, FedmodelsError):
        return str(error)
    if isinstance(error, OSError):
        return f"{_file_of(error)} cannot be written, so nothing may leave: {error.strerror}\n  -> {_MAKE_ROOM}"
    return f"a refusal cannot be logged, so nothing may leave ({type(error).__name__})\n  -> run client doctor"


def _file_of(error: OSError) -> str:
    """What the system says it is about. A write to a file that is open names none."""
    return Path(error.filename).name if isinstance(error.filename, str) else "a file of the site directory"


def _reason(error: Exception, ahead: float) -> tuple[str, str]:
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause.verify_code)
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "there is no machine of that name", "check the address in the invitation, and this network's name server"
    if isinstance(error, httpx.HTTPStatusError):
        return _status(error.response.status_code, ahead)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time", "is the coordinator up, and does this hospital's firewall let the connection out?"
    if isinstance(error, httpx.ConnectError):
        return (
            "nobody answers there",
            "is the coordinator up, and does this hospital's firewall let the connection out?",
        )
    if isinstance(error, httpx.TransportError):
        return f"the connection was lost ({type(error).__name__})", "nothing to do here: trying again"
    if isinstance(error, OSError):
        return f"cannot write the site directory: {error.strerror}", _MAKE_ROOM
    return "what answers there speaks another protocol", "both sides need the same version"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _certificate(code: int) -> tuple[str, str]:
    if code == _EXPIRED:
        return "the coordinator's certificate has expired", "ask the coordinator to renew it, or check this clock"
    if code == _NOT_YET:
        return "the coordinator's certificate is not valid yet", "check this machine's clock, then ask the coordinator"
    if code in _WRONG_NAME:
        return "the coordinator's certificate is for another name", "compare the address with the coordinator's"
    return (
        "the certificate shown there is not from the CA of the invitation",
        "it may be somebody else: compare the invitation's fingerprint with the coordinator over the telephone",
    )


def _status(status: int, ahead: float) -> tuple[str, str]:
    if status == httpx.codes.UNAUTHORIZED and not -_CLOCK_BEHIND < ahead < _CLOCK_AHEAD:
        side = "ahead of" if ahead > 0 else "behind"
        return (
            f"refused, because this clock is {abs(ahead):.0f} s {side} the coordinator's",
            "set the clock that is wrong, best by NTP",
        )
    if status == httpx.codes.UNAUTHORIZED:
        return "the coordinator does not know this node's key", "send it this hospital's card, and ask to be let in"
    if status == httpx.codes.PRECONDITION_FAILED:
        return (
            "not let in: the coordinator does not know this node's key, or still counts a node with it as connected",
            "send the card if that was not done; stop any other node with this key; else it passes within a minute",
        )
    if status == httpx.codes.NOT_FOUND:
        return "what answers there is no link for hospitals", "check the address in the invitation"
    return f"the coordinator's link answered {status}", "nothing to do here: trying again"
