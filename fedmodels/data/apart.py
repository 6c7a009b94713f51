"""Decoding in a process of its own: GDCM, the only decoder of JPEG lossless and JPEG-LS, ends the whole process on some
damaged files. What it kills here is a helper, and the price is one image.

The helper reads requests from its standard input, one JSON line each, and answers on its standard output with a length
of 8 bytes and that many bytes of MessagePack. It is started for the first such file, and ends with its input.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
import numpy as np

from fedmodels.data.binding_kinds import DicomRules
from fedmodels.data.dicom import read_frames
from fedmodels.data.fitting import Values
from fedmodels.data.unusable import Reason, Unusable
from fedmodels.study_input import ImageInput

_PACKAGES = str(Path(__file__).parents[2])


class _Request(NamedTuple):
    path: str
    rules: DicomRules
    input: ImageInput


class _Reply(NamedTuple):
    """reason: name of one, or "" and the pixels of `shape`, whose first number is that of frames."""

    reason: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    pixels: bytes = b""


class Apart:
    """`read_frames` in a helper process; a context manager, which ends the helper."""

    def __init__(self) -> None:
        self._helper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._helper:
            self._helper.kill()
            self._helper.communicate()
            self._helper = None

    def read_frames(self, path: Path, rules: DicomRules, input_: ImageInput) -> list[Values]:
        """As `dicom.read_frames`; a file on which the decoder crashes is damaged."""
        self._helper = self._helper or _start()
        request = msgspec.json.encode(_Request(str(path), rules, input_)) + b"\n"
        try:
            reply = _ask(self._helper, request)
        except (OSError, EOFError):
            self.__exit__(None, None, None)
            raise Unusable(Reason.DAMAGED) from None
        if reply.reason:
            raise Unusable(Reason[reply.reason])
        return list(np.frombuffer(reply.pixels, reply.dtype).reshape(reply.shape))


def _start() -> "subprocess.Popen[bytes]":
    packages = os.pathsep.join(filter(None, [_PACKAGES, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(  # noqa: S603 - this Python, this module
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders write there what they think of patients' files
        env=os.environ | {"PYTHONPATH": packages},
    )


def _ask(helper: "subprocess.Popen[bytes]", request: bytes) -> _Reply:
    if helper.stdin is None or helper.stdout is None:
        raise EOFError
    helper.stdin.write(request)
    helper.stdin.flush()
    size = helper.stdout.read(8)
    body = helper.stdout.read(int.from_bytes(size, "big"))
    if len(size) < 8 or len(body) < int.from_bytes(size, "big"):
        raise EOFError
    return msgspec.msgpack.decode(body, type=_Reply)


def _answer(line: bytes) -> _Reply:
    request = msgspec.json.decode(line, type=_Request)
    try:
        frames = np.stack(read_frames(Path(request.path), request.rules, request.input))
    except Unusable as unusable:
        return _Reply(unusable.reason.name)
    return _Reply("", frames.shape, frames.dtype.str, frames.tobytes())


def _serve() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but replies may come that way
    for line in sys.stdin.buffer:
        body = msgspec.msgpack.encode(_answer(line))
        replies.write(len(body).to_bytes(8, "big") + body)
        replies.flush()


if __name__ == "__main__":
    _serve()
