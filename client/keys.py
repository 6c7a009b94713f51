"""A hospital's two key pairs. Both are made here and their private halves never leave this machine.

`identity.key` (Ed25519, raw) signs what the hospital says to other hospitals and its ledger. `node.key` (NIST P-384,
OpenSSH) lets its node into the coordinator's Flower link, and proves nothing else.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from fedmodels.errors import UsageError
from fedmodels.files import write_synced

_RESTORE = "restore it from the backup, or start a new site directory"


def make_node_key() -> tuple[bytes, bytes]:
    """(private key, public key) of a Flower node, both in OpenSSH's format; the public one without a comment."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()), _public(key)


def make_keys(directory: Path) -> None:
    """Write a new `node.key`, and then a new `identity.key`, readable by this user only."""
    write_synced(directory / "node.key", make_node_key()[0], mode=0o600)
    write_synced(directory / "identity.key", Ed25519PrivateKey.generate().private_bytes_raw(), mode=0o600)


def identity_of(directory: Path) -> Ed25519PrivateKey:
    """The identity key; `UsageError` where it is absent or no key."""
    path = directory / "identity.key"
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except (OSError, ValueError):
        raise UsageError("no usable identity key", where=str(path), fix=_RESTORE) from None


def node_public_of(directory: Path) -> str:
    """The public half of the node key, as a card holds it; `UsageError` where it is absent or no P-384 key."""
    path = directory / "node.key"
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError):
        raise UsageError("no usable node key", where=str(path), fix=_RESTORE) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UsageError("the node key is not on the curve P-384", where=str(path), fix=_RESTORE)
    return _public(key).decode()


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
