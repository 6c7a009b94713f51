"""`--set key=value`: a variation of a study file without editing it."""

import tomllib
from collections.abc import Sequence
from typing import Any

import tomli_w

from fedmodels.errors import FileError, UsageError


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
