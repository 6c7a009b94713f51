"""The cryptographic building blocks, each with its own label: hash, key derivation, signatures, key agreement.

Everything is from pyca/cryptography; this module only fixes sizes, labels and encodings.
"""

import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum, unique
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedmodels.errors import LocalProtocolError

PROTOCOL = "fedmodels/secagg/v1"
KEY_BYTES = 32
SIGNATURE_BYTES = 64
SEALED_BYTES = KEY_BYTES + 16
_NONCE = bytes(12)

Randomness = Callable[[int], bytes]
"""`random(n)` returns n bytes from a cryptographically secure source, such as `secrets.token_bytes`."""


@unique
class Label(StrEnum):
    """The purpose of every hash and every derived key; no two uses share one."""

    ROSTER = "roster"
    TERMS = "terms"
    TERMS_RECOVER = "terms-recover"
    SETUP = "setup-key"
    TRANSCRIPT = "transcript"
    PAIR = "pair-chain"
    RATCHET = "chain-ratchet"
    SESSION = "session"
    SESSION_RECOVER = "session-recover"
    MASK = "pair-mask"
    SELF_MASK = "self-mask"
    SHARE_KEY = "share-key"
    SHARE_DATA = "share-data"
    CHECKSUM = "upload-checksum"
    ANSWERED = "answered-request"
    STATE = "stored-state"


class Confidential:
    """Base of values that hold keys: they are neither pickled nor copied."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("keys are not pickled or copied", fix="store protocol states with `secagg.dump`")


class Secret(Confidential):
    """A key that does not print, pickle or hash; `reveal` is the only way to its bytes."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: bytes) -> None:
        if len(value) != KEY_BYTES:
            raise LocalProtocolError(
                f"a secret has {len(value)} bytes instead of {KEY_BYTES}",
                fix="pass a source of randomness that returns as many bytes as it is asked for",
            )
        self._value = bytes(value)

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)


def digest(label: Label, *parts: bytes) -> bytes:
    """SHA-256 of protocol, label and parts, each behind its length (8 bytes, big-endian): injective in all of them."""
    state = hashlib.sha256()
    for part in (PROTOCOL.encode(), label.encode(), *parts):
        state.update(len(part).to_bytes(8, "big") + part)
    return state.digest()


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    """HKDF-Expand-SHA256 to 32 bytes (RFC 5869, section 2.3)."""
    return HKDFExpand(SHA256(), KEY_BYTES, info).derive(key)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256, extract and expand, to 32 bytes (RFC 5869, section 2)."""
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)


def derive(key: Secret, label: Label, *context: bytes) -> Secret:
    """A key for the one purpose and context; independent of `key` and of all other derived keys."""
    return Secret(hkdf_expand(key.reveal(), digest(label, *context)))


def x25519_public(secret: Secret) -> bytes:
    """The X25519 public key (RFC 7748, section 6.1)."""
    return X25519PrivateKey.from_private_bytes(secret.reveal()).public_key().public_bytes_raw()


def x25519(secret: Secret, peer: bytes) -> Secret | None:
    """The X25519 shared secret; None when `peer` is a point of low order, whose result anybody could predict."""
    try:
        key = X25519PrivateKey.from_private_bytes(secret.reveal())
        return Secret(key.exchange(X25519PublicKey.from_public_bytes(peer)))
    except ValueError:
        return None


def ed25519_sign(identity: Ed25519PrivateKey, statement: bytes) -> bytes:
    """The Ed25519 signature (RFC 8032, section 5.1.6)."""
    return identity.sign(statement)


def ed25519_verifies(public: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether the signature is valid; False also for bytes that are not a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(key: Secret, content: Secret, associated: bytes) -> bytes:
    """AES-256-GCM of 32 bytes under a nonce of zeros: a key seals once, ever (NIST SP 800-38D, section 8)."""
    return AESGCM(key.reveal()).encrypt(_NONCE, content.reveal(), associated)


def unseal(key: Secret, sealed: bytes, associated: bytes) -> Secret | None:
    """What was sealed; None when key, associated data or a bit of `sealed` is another."""
    try:
        return Secret(AESGCM(key.reveal()).decrypt(_NONCE, sealed, associated))
    except InvalidTag:
        return None
