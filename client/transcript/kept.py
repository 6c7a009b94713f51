"""The messages of which the bytes are kept, read again: what really left."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client.proof import file_of, proven
from client.sentlog import Line, SentLog
from client.transcript.uniformity import chances
from client.uploads import header_of, is_intact
from fedmodels import wire
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import WORD, Vector
from fedmodels.secagg.messages import UploadHeader


@dataclass(frozen=True)
class Sent:
    """One message. number: of its line in the log, from 1; reply: None where it cannot be read; words: of the vector
    beside it.

    header: of an upload, None where it cannot be read; intact: whether its checksum is that of the vector; uniform,
    fresh: what `uniformity.chances` says of the vector, and of its difference to the vector before it in the same run,
    which shows a mask that was used twice.
    """

    number: int
    line: Line
    reply: wire.Reply | None
    words: int = 0
    header: UploadHeader | None = None
    intact: bool = True
    uniform: tuple[float, ...] = ()
    fresh: tuple[float, ...] = ()


def read(log: SentLog) -> Iterator[Sent]:
    """Every message that is kept and proven, once, in the order in which it first left.

    One whose bytes are not those of its line is passed over: `client.proof` tells of it.
    """
    seen: set[str] = set()
    before: dict[str, Vector] = {}
    for number, (line, _) in enumerate(log.lines(), 1):
        path = file_of(log.kept, line)
        if line.sha256 in seen or path is None or not proven(path, line):
            continue
        seen.add(line.sha256)
        try:
            reply, rest = wire.split_reply(path.read_bytes())
        except RemoteProtocolError:
            yield Sent(number, line, None)
            continue
        if isinstance(reply, wire.ContributeReply):
            vector = np.frombuffer(rest[: len(rest) // WORD.itemsize * WORD.itemsize], WORD)
            yield _upload(number, line, reply, vector, before.get(line.run))
            before[line.run] = vector
        else:
            yield Sent(number, line, reply)


def _upload(number: int, line: Line, reply: wire.ContributeReply, vector: Vector, before: Vector | None) -> Sent:
    header = header_of(reply.header)
    intact = header is not None and is_intact(header, vector)
    fresh = chances(vector - before) if before is not None and before.size == vector.size else ()
    return Sent(number, line, reply, vector.size, header, intact, chances(vector), fresh)
