"""Masks: AES-256-CTR keystream added to vectors of uint32 modulo 2^32.

The mask of a key is cut into chunks of 2^18 bytes; chunk c is the CTR keystream whose first counter block is
`c (12 bytes, big-endian) || 00000002`, read as little-endian words: a piece of `fedmodels.keystream`. The chunk size is
part of the wire format. It also keeps chunk and keystream in the cache while all keys pass over them, which is what
makes masking run at nearly the speed of AES.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from fedmodels.cores import at_once
from fedmodels.keystream import PIECE_BYTES, TAIL_BYTES, keystream
from fedmodels.secagg.primitives import Label, Secret, digest

Vector = npt.NDArray[np.uint32]

WORD = np.dtype("<u4")
MAX_WORDS = 1 << 28
CHUNK_BYTES = PIECE_BYTES
CHECKSUM_BYTES = 16
_NONCE_BYTES = 12
_LINE_BYTES = 64
_CHUNK_WORDS = CHUNK_BYTES // WORD.itemsize
_PART_WORDS = 1 << 17  # added and checked at a time: the sum and an upload stay in the cache
_PARTS_WORTH_TWO_CORES = 4
_WORTH_TWO_CORES = 32  # chunks of keystream; to wake another core takes as long as three


def is_vector(vector: Vector) -> bool:
    """Whether this is what the protocol carries: 1 to 2^28 contiguous little-endian uint32 in one dimension."""
    return (
        vector.dtype == WORD and vector.ndim == 1 and bool(vector.flags.c_contiguous) and 1 <= vector.size <= MAX_WORDS
    )


def add_masks(vector: Vector, plus: Sequence[Secret], minus: Sequence[Secret], *, in_place: bool = False) -> Vector:
    """A new vector: `vector` + the masks of the keys `plus` - the masks of the keys `minus`, modulo 2^32.

    Every key must be used for one vector only, ever. in_place: in the memory of `vector`, which is returned.
    """
    masked = vector if in_place else vector.copy()
    _mask(masked, plus, minus, lambda _: None)
    return masked


def mask_in_place(
    vector: Vector, plus: Sequence[Secret], minus: Sequence[Secret], session: bytes, sender: str
) -> bytes:
    """`add_masks` in the memory of `vector`; returns the `checksum` of the result.

    The checksum is made while the chunks are still in a cache.
    """
    gmac = _gmac(session, sender)
    _mask(vector, plus, minus, lambda part: gmac.authenticate_additional_data(part.data.cast("B")))
    gmac.finalize()
    return gmac.tag


def _mask(vector: Vector, plus: Sequence[Secret], minus: Sequence[Secret], then: Callable[[Vector], object]) -> None:
    """Add all masks in place, on two cores where that pays. then: called with each finished chunk, in order."""
    count = -(-vector.size // _CHUNK_WORDS)
    chunks, finished, followed = iter(range(count)), bytearray(count), 0

    def follow() -> None:
        nonlocal followed
        while followed < count and finished[followed]:
            then(_chunk_of(vector, followed))
            followed += 1

    def work(after: Callable[[], None]) -> None:
        masks = [(keystream(key.reveal()), np.add) for key in plus] + [
            (keystream(key.reveal()), np.subtract) for key in minus
        ]
        scratch = chunk_buffer()
        words = np.frombuffer(scratch[:CHUNK_BYTES], WORD)
        for chunk in chunks:  # each is given out once, to whoever asks first
            part = _chunk_of(vector, chunk)
            stream, room = words[: part.size], scratch[: part.nbytes + TAIL_BYTES]
            for fill, combine in masks:
                fill(chunk, room)
                combine(part, stream, out=part)
            finished[chunk] = True
            after()

    if count * (len(plus) + len(minus)) < _WORTH_TWO_CORES:
        work(follow)
    else:
        at_once(lambda: work(follow), lambda: work(lambda: None))
    follow()


def _chunk_of(vector: Vector, chunk: int) -> Vector:
    return vector[chunk * _CHUNK_WORDS : (chunk + 1) * _CHUNK_WORDS]


def chunk_buffer() -> memoryview:
    """Room for a chunk of keystream, beginning on a cache line: additions read it faster from there."""
    memory = np.empty(CHUNK_BYTES + TAIL_BYTES + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + CHUNK_BYTES + TAIL_BYTES].data


def checksum(session: bytes, sender: str, vector: Vector) -> bytes:
    """GMAC of the vector under a key that everybody can derive from the session digest and the sender.

    It finds a vector that was damaged, cut or mixed up on its way. It is no authentication, and needs none: a
    hospital may upload any vector it likes, and the path is authenticated by the transport. Fifteen times as fast as
    SHA-256, which would cost as much as all the masks of ten hospitals.
    """
    return AESGCM(_checksum_key(session, sender)).encrypt(bytes(_NONCE_BYTES), b"", vector.data.cast("B"))


def _checksum_key(session: bytes, sender: str) -> bytes:
    return digest(Label.CHECKSUM, session, sender.encode())


def _gmac(session: bytes, sender: str) -> AEADEncryptionContext:
    """`checksum` in pieces: its key has this one use, so that the nonce may be fixed."""
    return Cipher(AES(_checksum_key(session, sender)), GCM(bytes(_NONCE_BYTES))).encryptor()


def combine_checked(
    total: Vector, combine: np.ufunc | None, vector: Vector, session: bytes, sender: str, expected: bytes
) -> bool:
    """`total` += or -= `vector` (combine: np.add, np.subtract), in place, if its checksum is the expected one.

    False, and no change, if it is not. None: `total` becomes `vector`; what it held is lost, whatever the checksum.
    A large vector is read by both at once, on two cores; a small one part by part, each while it is in the cache.
    """
    gmac = _gmac(session, sender)

    def check(part: slice) -> None:
        gmac.authenticate_additional_data(vector[part].data.cast("B"))

    def add(part: slice) -> None:
        if combine is None:
            total[part] = vector[part]
        else:
            combine(total[part], vector[part], out=total[part])

    if vector.size >= _PARTS_WORTH_TWO_CORES * _PART_WORDS:
        at_once(lambda: check(slice(None)), lambda: add(slice(None)))
    else:
        for start in range(0, vector.size, _PART_WORDS):
            part = slice(start, start + _PART_WORDS)
            add(part)  # first: addition prefetches better than GMAC
            check(part)
    gmac.finalize()
    if gmac.tag == expected:
        return True
    if combine is not None:
        (np.subtract if combine is np.add else np.add)(total, vector, out=total)
    return False
