"""The coordinator's own certificate authority: one CA that hospitals pin, one server certificate that it signs."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmodels.errors import UsageError
from fedmodels.files import write_synced

_CA_DAYS, _SERVER_DAYS, _RENEW_DAYS = 3650, 397, 30
_CLOCK_SLACK = timedelta(hours=1)
_SIGNING = {"digital_signature": False, "key_cert_sign": True, "crl_sign": True}
_SERVING = {"digital_signature": True, "key_cert_sign": False, "crl_sign": False}


class Pki:
    """The four PEM files in a folder. Keys are ECDSA over P-256, readable by this user only."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.ca_key = folder / "ca.crt", folder / "ca.key"
        self.server, self.server_key = folder / "server.crt", folder / "server.key"

    def create(self, name: str, host: str, now: datetime) -> None:
        """Make a CA called after the coordinator, and a server certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"fedmodels coordinator {name}")
        builder = _certificate(subject, subject, key.public_key(), now, _CA_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        certificate = _with_use(builder, key.public_key(), _SIGNING).sign(key, hashes.SHA256())
        _write_key(self.ca_key, key)
        write_synced(self.ca, certificate.public_bytes(Encoding.PEM))
        self.issue(host, now)

    def issue(self, host: str, now: datetime) -> None:
        """Make a new server key and a certificate for `host` and this machine's loopback, signed by the CA."""
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        signer = load_pem_private_key(self.ca_key.read_bytes(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise UsageError("is not the key that `server init` made", where=str(self.ca_key), fix="restore the backup")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _certificate(_name(host), authority.subject, key.public_key(), now, _SERVER_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(host)), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        certificate = _with_use(builder, key.public_key(), _SERVING).sign(signer, hashes.SHA256())
        _write_key(self.server_key, key)
        write_synced(self.server, certificate.public_bytes(Encoding.PEM))

    def renew(self, host: str, now: datetime) -> bool:
        """Issue a new server certificate if the present one has less than a month left; whether it did."""
        present = x509.load_pem_x509_certificate(self.server.read_bytes())
        if present.not_valid_after_utc - now > timedelta(days=_RENEW_DAYS):
            return False
        self.issue(host, now)
        return True


def utc_now() -> datetime:
    return datetime.now(UTC)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _CLOCK_SLACK).not_valid_after(now + timedelta(days=days))


def _with_use(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, use: dict[str, bool]
) -> x509.CertificateBuilder:
    unused = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False)  # fmt: skip
    builder = builder.add_extension(x509.KeyUsage(**use, **unused), critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _alternatives(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName("localhost")]
    addresses = {"127.0.0.1"}
    try:
        addresses.add(str(ipaddress.ip_address(host.strip("[]"))))
    except ValueError:
        names.insert(0, x509.DNSName(host))
    return [*names, *(x509.IPAddress(ipaddress.ip_address(a)) for a in sorted(addresses))]


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_synced(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
