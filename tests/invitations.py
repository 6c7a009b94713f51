"""Invitations of coordinators that do not exist, and certificates of ones that listen on this machine."""

import datetime
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A CA with one certificate for 127.0.0.1, all as PEM text."""

    ca: str
    certificate: str
    key: str


def authority(days: int = 1) -> Authority:
    """Valid until `days` from now; negative: expired since."""
    now = datetime.datetime.now(datetime.UTC)
    start, end = now - datetime.timedelta(days=30), now + datetime.timedelta(days=days)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(name: str, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )

    root = certificate("test CA", ca_key.public_key(), ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = certificate("server", key.public_key(), ca=False).add_extension(names, critical=False)
    return Authority(
        root.public_bytes(Encoding.PEM).decode(),
        leaf.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode(),
    )


def invitation(name: str, address: str = "127.0.0.1:9", ca: str = "") -> str:
    """The text of an `invitation.toml`, by default with a new CA."""
    return f'name = "{name}"\naddress = "{address}"\ncertificate = """\n{ca or authority().ca}"""\n'
