"""A deployment on this machine: a CA, a link and hospital nodes, each a process of its own that can be killed.

    with Deployment(folder) as deployment:
        deployment.start_link()
        nodes = [deployment.node(name) for name in ("a", "b", "c")]
        with deployment.link.open_run("study") as grid:
            ...

All processes run with an audit hook; `deployment.strangers()` says whom they talked to besides 127.0.0.1. Everything
is logged to files in the folder; an assertion that fails shows their ends.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from client.keys import make_node_key
from server.link import Link
from server.linkconfig import LinkConfig

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCAL = "127.0.0.1"


class Authority:
    """A CA that issues certificates for servers on 127.0.0.1."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), timedelta(days=1))
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = builder.add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, folder: Path, host: str = LOCAL, left: timedelta = timedelta(days=1)) -> tuple[Path, Path]:
        """Certificate and key files of a server; `left`: how long the certificate is valid from now, or was."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)]
        )
        builder = _builder(subject, self._name, key.public_key(), left).add_extension(names, critical=False)
        certificate, secret = folder / "server.pem", folder / "server.key"
        certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, secret


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, left: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2)).not_valid_after(now + left)
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


class Process:
    """A child process and the file that it writes to."""

    def __init__(self, kind: str, options: dict[str, str], log: Path, audit: Path) -> None:
        self.log = log
        environment = {
            **os.environ,
            "PYTHONPATH": f"{HERE / 'audit'}{os.pathsep}{ROOT}",
            "FEDMODELS_AUDIT": str(audit),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(HERE / "processes.py"), kind, json.dumps(options)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float = 30.0, times: int = 1) -> None:
        """Wait until the process has written `text` that many times."""
        wait_until(lambda: self.text().count(text) >= times, seconds, lambda: f"no {text!r} in:\n{self.text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None


class Deployment:
    """A folder with a link's and several hospitals' files, and their processes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority()
        self.audit = folder / "audit"
        self.audit.touch()
        certificate, key = self.authority.issue(folder)
        (folder / "ca.pem").write_text(self.authority.pem)
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_bytes(os.urandom(32))
        self.config = LinkConfig(
            public_host=LOCAL, public_port=free_port(), internal_port=free_port(), ca=folder / "ca.pem",
            certificate=certificate, key=key, secret=folder / "secret", database=folder / "link.sqlite",
            log=folder / "flower.log",
        )  # fmt: skip
        self.processes: list[Process] = []
        self.started = 0

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.alive:
                process.kill()

    @property
    def link(self) -> Link:
        return Link(self.config)

    @property
    def address(self) -> str:
        return f"{LOCAL}:{self.config.public_port}"

    def start_link(self) -> Process:
        """Start the link, or start it again, and wait until it answers."""
        self.started += 1
        options = {key: str(value) for key, value in asdict(self.config).items()}
        process = self._start("link", options, "link.log")
        process.wait_for("ready", times=self.started)
        return process

    def node(self, name: str, register: bool = True, **options: str) -> Process:
        """Make a hospital's site directory with a node key, let the node in and start it."""
        site = self.folder / name
        site.mkdir()
        private, public = make_node_key()
        (site / "node.key").write_bytes(private)
        (site / "node.pub").write_bytes(public)
        if register:
            self.link.register(public, name)
        return self.start_node(name, **options)

    def start_node(self, name: str, **options: str) -> Process:
        """Start the node of a site directory that is there, or start it again."""
        site = self.folder / name
        defaults = {"address": self.address, "ca": self.authority.pem, "site": str(site)}
        return self._start("node", {**defaults, **options}, f"{name}.log")

    def online(self) -> dict[str, int]:
        """Node ids by name, of the nodes that are online."""
        return {node.name: node.node_id for node in self.link.nodes() if node.online}

    def strangers(self) -> str:
        """Whom any process talked to besides this machine."""
        return self.audit.read_text()

    def _start(self, kind: str, options: dict[str, str], log: str) -> Process:
        self.processes.append(Process(kind, options, self.folder / log, self.audit))
        return self.processes[-1]


def wait_until(done: Callable[[], bool], seconds: float, complaint: Callable[[], str] = lambda: "too slow") -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, complaint()
        time.sleep(0.05)
