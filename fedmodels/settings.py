"""`--set key=value`: a variation of a study file without editing it."""

import tomllib
from collections.abc import Sequence
from typing import Any

import tomli_w

from fedmodels.errors import FileError, UsageError

DISTRIBUTED = (
    "training.rounds=100", "training.local_steps=1", "training.batch_rate=0.2", 'training.optimiser="sgd"',
    "training.learning_rate=0.5", "training.momentum=0.9", "training.weight_decay=0.0", "training.average=0.9",
    'training.server_optimiser="fedavg"', "training.server_learning_rate=1.0", "training.class_weights=[]",
)  # fmt: skip
"""Training constants for privacy mode `distributed` that need no tuning, see docs/privacy.md, section 7."""


def for_mode(mode: str) -> tuple[str, ...]:
    """Settings that put a study into a privacy mode; none for an empty `mode`."""
    if not mode:
        return ()
    return (f"privacy.mode={mode}", *(DISTRIBUTED if mode == "distributed" else ()))


def apply_settings(text: str, settings: Sequence[str], source: str = "study.toml") -> str:
    """The TOML `text` with each `section.key=value` set; without settings, the same text, comments and all.

    A value is read as TOML (3, 0.5, true, [1, 2]), and as a string where that fails. Whether the key exists is for the
    study's own strict check to say.
    """
    if not settings:
        return text
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"not valid TOML: {error}", where=source, fix="correct the syntax at that place") from None
    for setting in settings:
        path, equals, value = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or len(keys) < 2 or not all(keys):
            raise UsageError(f"`{setting}` is not a setting", where="--set", fix="write, say, privacy.epsilon=3")
        _set(content, keys, _value(value.strip()))
    return tomli_w.dumps(content)


def _set(content: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise UsageError(f"`{key}` is not a section", where="--set", fix="write, say, privacy.epsilon=3")
    content[keys[-1]] = value


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
