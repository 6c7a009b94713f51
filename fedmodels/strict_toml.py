"""Strict decoding of the TOML files that people write: an error names the file, line, key and what was expected."""

import difflib
import re
import tomllib
from typing import TypeVar

import msgspec

from fedmodels.errors import FileError

T = TypeVar("T")

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.?([A-Za-z0-9_-]+)|\[(\d+|\.\.\.)\]")
_HEADER = re.compile(r"^\s*\[{1,2}\s*([A-Za-z0-9_.\-\"' ]+?)\s*\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""^\s*["']?([A-Za-z0-9_-]+)["']?(?:\s*\.\s*[A-Za-z0-9_-]+)*\s*=""")


def decode(text: str, type_: type[T], source: str) -> T:
    """Decode TOML `text` into the msgspec struct `type_`.

    source: the file's name, for messages. Unknown keys, missing keys, wrong types and values out of range raise
    `FileError` with file, line, key and expectation.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"not valid TOML: {error}", where=source, fix="correct the syntax at that place") from None
    try:
        return msgspec.convert(raw, type_, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), text, source) from None


def _explain(message: str, text: str, source: str) -> FileError:
    match = _AT.match(message)
    what, path = (match["what"], match["path"] or "$") if match else (message, "$")
    steps = [name for name, _ in _STEP.findall(path.removeprefix("$")) if name]
    fix = "see `fedmodels study new` for a commented file with every key"
    if unknown := re.search(r"unknown field `([^`]+)`", what):
        steps.append(unknown[1])
        what = f"unknown key `{'.'.join(steps)}`"
        fix = "remove it; unknown keys are refused because they may be a misspelt setting"
    elif missing := re.search(r"missing required field `([^`]+)`", what):
        what = f"missing key `{'.'.join([*steps, missing[1]])}`"
        close = difflib.get_close_matches(missing[1], _keys(text), n=1)
        fix = f"add it{f' (is `{close[0]}` a misspelling?)' if close else ''}"
    elif steps:
        what = f"`{'.'.join(steps)}`: {what[0].lower()}{what[1:]}"
    line = _line_of(text, steps)
    return FileError(what, where=f"{source}:{line}" if line else source, fix=fix)


def _keys(text: str) -> list[str]:
    return [match[1] for line in text.splitlines() if (match := _KEY.match(line))]


def _line_of(text: str, steps: list[str]) -> int | None:
    """The 1-based line where the longest findable prefix of `steps` is set, or None."""
    for size in range(len(steps), 0, -1):
        section: list[str] = []
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                section = [part.strip().strip("\"'") for part in header[1].split(".")]
                if section == steps[:size]:
                    return number
            elif (key := _KEY.match(line)) and [*section, key[1]] == steps[:size]:
                return number
    return None
