"""Which encoding a hospital's text file has: declared in the binding, or told apart among the three that are common.

Valid UTF-8 with a character beyond ASCII is hardly ever anything else, so a file that decodes as UTF-8 is UTF-8. What
does not is GB18030 if most of its wide characters are of GB 2312, the common Chinese ones, and Latin-1 if it holds
no control characters, which Windows code pages put there. Everything else has to be declared. A file with lines in
UTF-8 and lines in something else has no encoding, and is refused with the line at which it changes.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

from fedmodels.errors import DataError

DETECT = "detect"
_COMMON = 0.8
_CONTROLS = bytes([*range(9), *range(14, 32), *range(0x7F, 0xA0)])
_DECLARE = "save it as UTF-8, or set `encoding` in the data binding (utf-8, gb18030, latin-1, cp1252, utf-16, ...)"


def decode(content: bytes, encoding: str, path: Path) -> tuple[str, str]:
    """The text of a file without any byte order mark, and the name of the encoding that it was read in.

    encoding: the declared one, or `DETECT`. `DataError` names the first line that does not fit.
    """
    declared = encoding != DETECT
    name = codecs.lookup(encoding).name if declared else _detect(content, path)
    if name in ("gb18030", "gbk", "gb2312"):
        _refuse_mixed(content, path)
    try:
        return content.decode(name).removeprefix("\ufeff"), name
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not {encoding} text", where=str(path), fix=_DECLARE) from None


def _detect(content: bytes, path: Path) -> str:
    if _is(content, "utf-8"):
        return "utf-8"
    _refuse_mixed(content, path)
    if _is_chinese(content):
        return "gb18030"
    if content.translate(None, _CONTROLS) == content:
        return "latin-1"
    first = next((number for number, line in _beyond_ascii(content) if not _is(line, "utf-8")), 1)
    raise DataError(
        f"line {first} is not UTF-8, and the file is not plainly Chinese in GB18030 or Western in Latin-1",
        where=str(path),
        fix=_DECLARE,
    )


def _refuse_mixed(content: bytes, path: Path) -> None:
    """Refuse lines in UTF-8 beside others; a line that reads well as Chinese in GB 2312 is not taken for UTF-8."""
    kinds = {number: _is(line, "utf-8") and not _is_chinese(line) for number, line in _beyond_ascii(content)}
    if len(set(kinds.values())) < 2:
        return
    first = next(iter(kinds.values()))
    change = next(number for number, kind in kinds.items() if kind != first)
    raise DataError(
        f"has two encodings: up to line {change} text beyond ASCII is {'' if first else 'not '}UTF-8, line {change} is "
        f"{'not' if first else 'UTF-8'}",
        where=str(path),
        fix="files of different programs were put together: export them apart, or save all of it as UTF-8",
    )


def _beyond_ascii(content: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(content.split(b"\n"), 1) if not line.isascii())


def _is(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_chinese(content: bytes) -> bool:
    """Whether it decodes as GB18030, most of it beyond ASCII into the characters of GB 2312."""
    try:
        text = content.decode("gb18030")
    except UnicodeDecodeError:
        return False
    wide = "".join(character for character in text if character > "\x7f")
    return len(wide.encode("gb2312", "ignore")) >= _COMMON * 2 * len(wide)
