"""What a hospital's people agree to when they approve a study, in plain words."""

from collections.abc import Iterator
from typing import Any

import msgspec

from client.approval import Approved
from client.policy import Policy
from fedmodels.commands.study import rows
from fedmodels.dp.plan import plan_for
from fedmodels.joining import Invitation, card_fingerprint
from fedmodels.study import Roster, Study


def terms(study: Study, invitation: Invitation | None) -> list[tuple[str, str]]:
    """Study, promise, observer, worst case and coordinator, one plain line each with its heading."""
    coordinator = "none: this hospital is not connected to one"
    if invitation:
        coordinator = f"{invitation.name} at {invitation.address}, fingerprint {invitation.fingerprint}"
    return [*rows(study), ("worst case", worst_case(study)), ("coordinator", coordinator)]


def worst_case(study: Study) -> str:
    """The most that the whole study can make this hospital release, and what that costs a patient."""
    uploads = study.training.rounds + study.federation.max_retries
    plan = plan_for(study)
    if plan is None:
        return (
            "no bound on what anybody may learn about a patient: the policy limits rounds, nothing limits epsilon. Do "
            "not approve this on real patients."
        )
    training, evaluation = plan.epsilon(uploads), study.privacy.evaluation_epsilon
    return (
        f"if every retry is used: {uploads} training uploads and one evaluation leave this hospital, and together "
        f"they change what the observer may learn about any one patient by at most epsilon {training:.2f} + "
        f"{evaluation:g} = {training + evaluation:.2f} at delta {study.privacy.delta:g}"
    )


def spending(policy: Policy, study: Study, here: float, elsewhere: float) -> str:
    """What patients of this hospital have been charged so far, and where the whole study would bring them."""
    if study.privacy.mode == "none":
        return f"epsilon {elsewhere:.2f} in other studies; this one has no bound"
    after = study.epsilon_total + elsewhere
    return (
        f"so far epsilon {here:.2f} in this study and {elsewhere:.2f} in others; with all of this study {after:.2f} of "
        f"the {policy.epsilon_lifetime:g} that the policy allows in life"
    )


def hospitals(roster: Roster, own: str) -> list[tuple[str, str, str]]:
    """(name, declared size, fingerprint of the card) of everyone who takes part."""
    return [
        (f"{hospital.name} (this one)" if hospital.name == own else hospital.name, f"{hospital.declared_size:,}",
         card_fingerprint(hospital))
        for hospital in roster.hospital
    ]  # fmt: skip


def changes(before: Approved, study: Study, roster: Roster) -> list[str]:
    """What differs from what was approved before, one line per value; empty where only bytes differ."""
    old, new = (dict(_flat(msgspec.to_builtins(value))) for value in (before.study, study))
    keys = [key for key in sorted(old | new) if old.get(key, _NOTHING) != new.get(key, _NOTHING)]
    lines = [f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in keys]
    was, now = ({hospital.name: hospital for hospital in parties.hospital} for parties in (before.roster, roster))
    for name in sorted(was | now):
        if name not in now:
            lines.append(f"{name}: no longer takes part")
        elif name not in was:
            lines.append(f"{name}: takes part now, fingerprint {card_fingerprint(now[name])}")
        elif card_fingerprint(was[name]) != card_fingerprint(now[name]):
            lines.append(f"{name}: HAS OTHER KEYS, fingerprint {card_fingerprint(now[name])}")
        elif was[name] != now[name]:
            lines.append(f"{name}: declared size {was[name].declared_size} -> {now[name].declared_size}")
    return lines


_NOTHING = object()


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - whatever TOML can hold
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
