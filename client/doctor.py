"""Whether a hospital is ready: each check says what it found and, where something is off, what to do.

Counts of patients are printed for the hospital's own people alone: nothing here is logged or sent.
"""

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from client.coordinator_check import Check, reach
from client.data_check import records
from client.keys import node_public_of
from client.policy import objections
from client.proof import prove
from client.site import Site
from fedmodels.errors import FedmodelsError
from fedmodels.files import read_text, write_synced
from fedmodels.joining import parse_card
from fedmodels.models.device import device

_LEAST_BYTES, _ROOM_BYTES = 100 * 10**6, 10**9
_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([0-9.]+)\.\*")


Examination = Callable[[Site], Iterator[Check]]


def examine(site: Site, checks: dict[str, Examination]) -> Iterator[Check]:
    """Every finding of these checks. An error that a check meets is a finding, too."""
    for what, check in checks.items():
        try:
            yield from check(site)
        except FedmodelsError as error:
            place = f"{error.where}: " if error.where else ""
            yield Check(what, "fail", place + error.what, error.fix)
        except OSError as error:
            yield Check(
                what, "fail", f"{error.filename or ''}: {error.strerror or error}", "check path and permissions"
            )


def _keys(site: Site) -> Iterator[Check]:
    site.identity.public_key()
    node_public_of(site.directory)
    for path in (site.directory / "identity.key", site.directory / "node.key"):
        if path.stat().st_mode & 0o077:
            yield Check("keys", "fail", f"{path.name} can be read by others", f"chmod 600 {path}")
            return
    card_file = site.directory / "card.toml"
    card = parse_card(read_text(card_file), str(card_file))
    if card != site.card(card.declared_size):
        yield Check("keys", "fail", "card.toml is not the card of these keys", "send nobody this card; restore it")
    else:
        yield Check("keys", "ok", "identity and node key are here, for this user alone, and the card is theirs")


def _policy(site: Site) -> Iterator[Check]:
    policy = site.policy
    found = f"modes {', '.join(policy.modes)}; epsilon {policy.epsilon_per_study:g} per study, "
    yield Check("policy", "ok", f"{found}{policy.epsilon_lifetime:g} in life; {policy.min_patients} patients or more")


def _approval(site: Site) -> Iterator[Check]:
    if site.invitation is None:
        yield Check(
            "coordinator", "fail", "not connected to one", f"fedmodels client connect {site.directory} INVITATION"
        )
    else:
        yield Check("coordinator", "ok", f"{site.invitation.name} at {site.invitation.address}, {site.coordinator}")
    record = site.approved.record
    said = f"{site.study.study.name}, {len(site.roster.hospital)} hospitals, by {record.by} on {record.time[:10]}"
    refused = list(objections(site.policy, site.facts))
    for refusal in refused:
        yield Check("approval", "fail", f"{said}; the policy refuses it now: {refusal.what}", refusal.fix)
    if not refused:
        yield Check("approval", "ok", f"{said}; the policy allows it")
    if any(objections(site.policy, replace(site.facts, minute=site.minute))) and not refused:
        now = f"{site.minute // 60:02d}:{site.minute % 60:02d}"
        yield Check(
            "hours", "warn", f"it is {now}, outside the hours of work", "wait, or change `hours` in policy.toml"
        )


def _disk(site: Site) -> Iterator[Check]:
    probe = site.directory / ".doctor"
    write_synced(probe, b"x" * 4096)
    probe.unlink()
    free, kept = shutil.disk_usage(site.directory).free, site.policy.keep_sent_megabytes * 10**6
    said = f"{free / 1e9:.1f} GB free, a synced write works"
    if free < _LEAST_BYTES:
        yield Check("disk", "fail", said, "free the disk: without room for ledger and log nothing is released")
    elif free < kept + _ROOM_BYTES:
        yield Check("disk", "warn", said, "make room for the vectors that are kept, or lower `keep_sent_megabytes`")
    else:
        yield Check("disk", "ok", said)


def _ledger(site: Site) -> Iterator[Check]:
    yield Check("ledger", "ok", f"{len(site.ledger.charges())} rows verify")


def _log(site: Site) -> Iterator[Check]:
    proof = prove(site.sent, site.ledger.charges())
    if proof.problems:
        yield Check("log", "fail", proof.problems[0], f"fedmodels client log verify {site.directory}")
    else:
        yield Check("log", "ok", f"{proof.messages} messages, {proof.matching} proven by the bytes that are kept")


def _versions(site: Site) -> Iterator[Check]:  # noqa: ARG001 - one signature for all
    try:
        required = importlib.metadata.requires("fedmodels") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("versions", "warn", "fedmodels is not installed as a package", "pip install it")
        return
    pins = [match for text in required if (match := _PINNED.match(text)) and "extra ==" not in text]
    have = {name: importlib.metadata.version(name) for name, _ in (pin.groups() for pin in pins)}
    said = ", ".join([f"fedmodels {importlib.metadata.version('fedmodels')}", f"Python {platform.python_version()}",
                      *(f"{name} {version}" for name, version in have.items())])  # fmt: skip
    wrong = [name for name, prefix in (pin.groups() for pin in pins) if not f"{have[name]}.".startswith(f"{prefix}.")]
    if wrong:
        yield Check("versions", "fail", f"{said}; not tested with this {', '.join(wrong)}", "install fedmodels anew")
    else:
        yield Check("versions", "ok", said)


def _device(site: Site) -> Iterator[Check]:  # noqa: ARG001 - one signature for all
    where = device()
    name = f"{where}, {torch.cuda.get_device_name(where)}" if where.type == "cuda" else "the CPU"
    yield Check("device", "ok", f"models are trained on {name}")


def _network(site: Site) -> Iterator[Check]:
    if site.invitation is None:
        yield Check("network", "warn", "not checked: not connected to a coordinator")
    else:
        yield from reach(site.invitation)


CHEAP: dict[str, Examination] = {
    "keys": _keys, "policy": _policy, "approval": _approval, "disk": _disk, "device": _device,
}  # fmt: skip
"""What `client up` looks at before it starts."""

ALL: dict[str, Examination] = {
    **CHEAP, "versions": _versions, "network": _network, "data": records, "ledger": _ledger, "log": _log,
}  # fmt: skip
