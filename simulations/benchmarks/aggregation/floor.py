"""The floor of masking: what no masking with AES-256 keystreams can be faster than, on as many cores.

Every mask costs its keystream and one addition. Both are measured alone, in one thread, on a chunk that stays in the
cache, as many times as masking needs them; the floor is that rate times the number of cores.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from fedmodels.cores import CORES
from fedmodels.keystream import keystream
from fedmodels.secagg.keystream import CHUNK_BYTES, WORD, add_masks, chunk_buffer
from fedmodels.secagg.primitives import KEY_BYTES, Secret


@dataclass(frozen=True)
class Floor:
    """Gigabytes of mask per second, and our masking of `words` words with `masks` keys as a share of the floor.

    keystream, add: of one core; floor: of `cores`.
    """

    masks: int
    words: int
    cores: int
    keystream_gb_per_s: float
    add_gb_per_s: float
    floor_gb_per_s: float
    masking_gb_per_s: float
    share: float


def sample(chunks: int = 200) -> float:
    """The floor's seconds per byte of mask, now; a few milliseconds of work."""
    start = time.perf_counter()
    _keystream(chunks)
    _additions(chunks)
    return (time.perf_counter() - start) / (chunks * CHUNK_BYTES * CORES)


def measure(masks: int, words: int, repetitions: int) -> Floor:
    """Keystream, addition and our masking, taken in turns; medians."""
    chunks = masks * -(-words * WORD.itemsize // CHUNK_BYTES)
    keys = [Secret(secrets.token_bytes(KEY_BYTES)) for _ in range(masks)]
    vector = np.zeros(words, WORD)
    work: tuple[Callable[[], object], ...] = (
        lambda: _keystream(chunks),
        lambda: _additions(chunks),
        lambda: add_masks(vector, keys[::2], keys[1::2]),
    )
    seconds: list[list[float]] = [[] for _ in work]
    for _ in range(repetitions):
        for taken, task in zip(seconds, work, strict=True):
            start = time.perf_counter()
            task()
            taken.append(time.perf_counter() - start)
    keystream, addition, ours = (median(taken) for taken in seconds)
    cached, streamed = chunks * CHUNK_BYTES / 1e9, masks * words * WORD.itemsize / 1e9
    floor = CORES * cached / (keystream + addition)
    masking = streamed / ours
    return Floor(masks, words, CORES, cached / keystream, cached / addition, floor, masking, masking / floor)


def _keystream(chunks: int) -> None:
    fill, room = keystream(secrets.token_bytes(KEY_BYTES)), chunk_buffer()
    for chunk in range(chunks):
        fill(chunk, room)


def _additions(chunks: int) -> None:
    total, stream = (np.frombuffer(chunk_buffer(), WORD, CHUNK_BYTES // WORD.itemsize) for _ in range(2))
    total[:], stream[:] = 0, 1
    for _ in range(chunks):
        np.add(total, stream, out=total)
