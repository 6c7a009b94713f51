"""Whether a text tells a key."""

import traceback
from collections.abc import Iterable


def shows(text: str, keys: Iterable[bytes]) -> bool:
    """Whether the text holds a key as bytes, hexadecimal, list or integer."""
    forms: list[str] = []
    for raw in keys:
        forms += [repr(raw)[2:-1], raw.hex(), str(list(raw))[1:-1], str(int.from_bytes(raw, "big"))]
    return any(form in text for form in forms)


def with_locals(error: BaseException, leave_out: str = "") -> str:
    """The error and every error behind it, with the local variables of all frames but those of the file `leave_out`.

    The variables as they print: within another string their backslashes would be doubled, and `shows` see nothing.
    """
    told, parts = traceback.TracebackException.from_exception(error, capture_locals=True), [str(error), repr(error)]
    chain: list[traceback.TracebackException] = [told]
    while chain:
        one = chain.pop()
        chain += [behind for behind in (one.__cause__, one.__context__) if behind]
        for frame in one.stack:
            if frame.filename != leave_out:
                parts += (frame.locals or {}).values()
    return "\n".join(parts)
