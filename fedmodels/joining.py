"""What people exchange before a study: the coordinator's invitation and the hospitals' cards.

Both hold public keys only. Private keys are made where they are used and never leave. Whoever receives one compares its
fingerprint with the sender over another way (telephone, signed letter) before using it.
"""

import hashlib
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from fedmodels import strict_toml
from fedmodels.errors import FileError, RemoteProtocolError
from fedmodels.study import Hospital
from fedmodels.typed import Name, Strict

_HEAD = b"fedmodels/ledger-head/v1"
_PRESENCE = b"fedmodels/presence/v1"
_HASH_BYTES, _SIGNATURE_BYTES = 32, 64
ADDRESS = r"^[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}\Z"
HEAD_BYTES = _HASH_BYTES + _SIGNATURE_BYTES


class Invitation(Strict, frozen=True):
    """`invitation.toml`: where the coordinator listens, and the CA that its certificate must come from (PEM)."""

    name: Name
    address: Annotated[str, Meta(pattern=ADDRESS)]
    certificate: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate, in groups: what identifies a coordinator."""
        return grouped(hashlib.sha256(_load(self.certificate, "certificate").public_bytes(Encoding.DER)).hexdigest())


def parse_invitation(text: str, source: str = "invitation.toml") -> Invitation:
    """The invitation in a TOML text; `FileError` says what is wrong with it."""
    invitation = strict_toml.decode(text, Invitation, source)
    _load(invitation.certificate, source)
    return invitation


def parse_card(text: str, source: str = "card.toml") -> Hospital:
    """The card of a hospital; `FileError` says what is wrong with it."""
    return strict_toml.decode(text, Hospital, source)


def card_fingerprint(card: Hospital) -> str:
    """SHA-256 over name and keys, in groups. The declared size is left out: it may be corrected later."""
    parts = (card.name, card.identity_key, card.node_key)
    return grouped(hashlib.sha256("\n".join(("fedmodels/card/v1", *parts)).encode()).hexdigest())


def grouped(digest: str) -> str:
    """The first 160 bits of a hex digest in ten groups of four, to be read aloud.

    >>> grouped("0123456789abcdef" * 4)
    '0123 4567 89ab cdef 0123 4567 89ab cdef 0123 4567'
    """
    return " ".join(digest[i : i + 4] for i in range(0, 40, 4))


def sign_head(identity: Ed25519PrivateKey, digest: bytes) -> bytes:
    """A hospital's signed statement that its ledger ended with the row of this hash (32 bytes): hash and signature.

    It says nothing about how many rows there are. Others keep it, so that an old copy of the ledger can be told.
    """
    return digest + identity.sign(_HEAD + digest)


def verify_head(public_key: bytes, head: bytes) -> bytes:
    """The row hash of a signed head; `RemoteProtocolError` where `public_key` (raw Ed25519) did not sign it."""
    digest, signature = head[:_HASH_BYTES], head[_HASH_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _HEAD + digest)
    except InvalidSignature:
        raise RemoteProtocolError("a ledger head that its hospital did not sign", fix="find out who sent it") from None
    return digest


def sign_presence(identity: Ed25519PrivateKey, run_id: bytes, nonce: bytes) -> bytes:
    """A hospital's signed statement that it is there, with its protocol state of this run. Both have 16 bytes.

    nonce: of the coordinator's question, so that an older statement, which others may have seen, is no answer.
    """
    return identity.sign(_PRESENCE + run_id + nonce)


def verify_presence(public_key: bytes, run_id: bytes, nonce: bytes, signature: bytes) -> bool:
    """Whether the hospital of this key (raw Ed25519) said so."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _PRESENCE + run_id + nonce)
    except InvalidSignature:
        return False
    return True


def _load(certificate: str, source: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        raise FileError(
            "`certificate` is not a PEM certificate", where=source, fix="ask the coordinator for the file again"
        ) from None
