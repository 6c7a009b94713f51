"""Whether the coordinator can be reached, is the one of the invitation, and has the same time of day.

One request over TLS, of which only the `Date` header is read. It carries nothing of the hospital.
"""

import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from client.troubles import trust
from fedmodels.joining import Invitation

_SECONDS = 10.0
_AHEAD, _BEHIND = 5.0, 300.0  # Flower's window for a node's signed time
_NOTICEABLE = 2.0  # a `Date` is cut to whole seconds
_EXPIRY_DAYS = 30


@dataclass(frozen=True)
class Check:
    """One finding. what: was looked at; found: in plain words; do: what to do about it, empty where nothing."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    do: str = ""


def reach(invitation: Invitation) -> Iterator[Check]:
    """Network, TLS and clock, as far as each can be checked."""
    address = invitation.address
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=_SECONDS, context=trust(invitation.certificate)
    )
    try:
        connection.connect()
        ours = datetime.now(UTC)
        yield Check("network", "ok", f"{address} answers, with a certificate of the invitation's CA")
        tls = connection.sock
        if isinstance(tls, ssl.SSLSocket):
            yield from _expiry(tls)
        connection.request("GET", "/")
        yield _clock(connection.getresponse().getheader("Date"), ours)
    except (OSError, http.client.HTTPException) as error:
        yield _unreachable(address, error)
    finally:
        connection.close()


def _unreachable(address: str, error: Exception) -> Check:
    match error:
        case ssl.SSLCertVerificationError():
            found = f"{address} shows a certificate that is not to be trusted: {error.verify_message}"
            do = "ask the coordinator over the telephone; do not connect to a new certificate unseen"
        case ssl.SSLError():
            found, do = f"{address} does not speak TLS as it should", "check that this is the coordinator's public port"
        case socket.gaierror():
            found, do = (
                f"the name in {address} is not known",
                "check the address in invitation.toml and this machine's DNS",
            )
        case ConnectionRefusedError():
            found, do = f"nothing listens at {address}", "ask the coordinator whether its server is up"
        case TimeoutError():
            found, do = f"{address} does not answer", "let this machine's firewall allow outgoing TCP to that port"
        case OSError():
            found, do = f"{address} cannot be reached: {error.strerror or error}", "check this machine's network"
        case _:
            found, do = f"{address} does not speak HTTP", "check that this is the coordinator's public port"
    return Check("network", "fail", found, do)


def _expiry(tls: ssl.SSLSocket) -> Iterator[Check]:
    ends = str((tls.getpeercert() or {}).get("notAfter", ""))
    if ends and (days := (ssl.cert_time_to_seconds(ends) - datetime.now(UTC).timestamp()) / 86400.0) < _EXPIRY_DAYS:
        yield Check("TLS", "warn", f"the certificate ends in {days:.0f} days", "tell the coordinator to renew it")


def _clock(date: str | None, ours: datetime) -> Check:
    if date is None:
        return Check("clock", "warn", "the coordinator does not say what time it is", "compare the clocks by hand")
    try:
        ahead = (ours - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return Check("clock", "warn", "the coordinator's time cannot be read", "compare the clocks by hand")
    said = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    if ahead > _AHEAD or ahead < -_BEHIND:
        return Check("clock", "fail", said, "set this machine's clock by NTP: the coordinator refuses such a time")
    if abs(ahead) > _NOTICEABLE:
        return Check("clock", "warn", said, "set this machine's clock by NTP")
    return Check("clock", "ok", "the same as the coordinator's, to a second or two")
