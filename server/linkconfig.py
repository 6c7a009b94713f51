"""What a link owns on the coordinator's machine: its addresses, certificate, secret and database."""

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from fedmodels.errors import FileError, RunError, UsageError

LOOPBACK = "127.0.0.1"
_RUNTIME = "/v1/runtime/"


@dataclass(frozen=True)
class LinkConfig:
    """Where a link listens and what it owns. `internal_port` is on the loopback interface; `secret` is a file of at
    least 32 random bytes, 0600; `log`: Flower's own log, none where it is None."""

    public_host: str
    public_port: int
    internal_port: int
    ca: Path
    certificate: Path
    key: Path
    secret: Path
    database: Path
    log: Path | None = None

    @property
    def address(self) -> str:
        """Where the coordinator's own processes reach it."""
        return f"{LOOPBACK}:{self.internal_port}"


def read_secret(config: LinkConfig) -> bytes:
    """The shared secret; `FileError` where it cannot be read, is short, or is not this user's alone."""
    try:
        secret, mode = config.secret.read_bytes(), config.secret.stat().st_mode
    except OSError as error:
        raise FileError(f"not readable: {error.strerror}", where=str(config.secret), fix="restore it") from None
    if len(secret) < 32:
        raise FileError("too short for a secret", where=str(config.secret), fix="use 32 random bytes or more")
    if mode & 0o077:
        raise FileError("other users can read it", where=str(config.secret), fix="chmod 600 it, then make a new one")
    return secret


def control_token(secret: bytes) -> str:
    """What the Control API of a link asks for; the secret itself never crosses the loopback interface."""
    return hmac.digest(secret, b"fedmodels/link/control/v1", hashlib.sha256).hex()


def check_certificate(config: LinkConfig) -> None:
    """Raise `FileError` where hospitals that trust `ca` would not trust what this link shows them."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.certificate, config.key)
        chain = x509.load_pem_x509_certificates(config.certificate.read_bytes())
        authority = x509.load_pem_x509_certificate(config.ca.read_bytes())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "not in PEM format"
        where = f"{config.certificate}, {config.key}, {config.ca}"
        raise FileError(f"no usable certificate and key: {reason}", where=where, fix="restore the files") from None
    try:
        for certificate, issuer in zip(chain, [*chain[1:], authority], strict=True):
            certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        raise FileError(
            f"not issued by the CA in {config.ca}, which hospitals trust",
            where=str(config.certificate),
            fix="have it issued by that CA, or send the hospitals a new invitation",
        ) from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `UsageError` where there cannot be one."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot listen here: {error.strerror or error}",
            where=f"{host}:{port}",
            fix="stop what uses the port (a link that is running already?), or choose another",
        ) from None


def pinned(config: LinkConfig) -> ssl.SSLContext:
    """Trust in the very certificate of this link: whoever has its key is the link, whatever names it bears."""
    leaf = x509.load_pem_x509_certificate(config.certificate.read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=leaf.public_bytes(Encoding.PEM).decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def shows_another_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def failures(config: LinkConfig) -> Iterator[None]:
    """What went wrong with a call, in words."""
    where = f"link {config.address}"
    try:
        yield
    except httpx.HTTPStatusError as error:
        status, path = error.response.status_code, error.request.url.path
        if path.startswith(_RUNTIME) and status < httpx.codes.INTERNAL_SERVER_ERROR:
            what, fix = "the link has ended this run", "resume it as a new run"
        elif status == httpx.codes.UNAUTHORIZED:
            raise UsageError(
                "the link has another secret", where=where, fix=f"use the {config.secret} it was started with"
            ) from None
        else:
            what, fix = f"the link answers {path} with {status}", "read the link's log"
        raise RunError(what, where=where, fix=fix) from None
    except httpx.TransportError as error:
        if shows_another_certificate(error):
            raise UsageError(
                "what answers there shows another certificate", where=where,
                fix=f"start the link again with {config.certificate}, or find out what uses its port",
            ) from None  # fmt: skip
        raise RunError("no link answers", where=where, fix="start it, then try again") from None


def pem(key: bytes, name: str) -> bytes:
    """A public key as Flower wants it."""
    try:
        load = load_ssh_public_key if key.startswith(b"ecdsa-") else load_pem_public_key
        return load(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("no public node key", where=name, fix="ask the hospital for its card again") from None


def openssh(key: bytes) -> bytes:
    return load_pem_public_key(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
