"""Both ways to compute a keystream give the same bytes, and those are AES-256-CTR's."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedmodels import keystream
from fedmodels.keystream import PIECE_BYTES, TAIL_BYTES, Fill, by_ctr, by_gcm

KEY = bytes(range(32))
WAYS = pytest.mark.parametrize("way", [by_gcm, by_ctr])


def stream(fill: Fill, piece: int, count: int) -> bytes:
    room = bytearray(count + TAIL_BYTES)
    fill(piece, memoryview(room))
    return bytes(room[:count])


@WAYS
@pytest.mark.parametrize("count", [1, 16, 4097, PIECE_BYTES])
def test_a_piece_is_the_ctr_keystream_from_its_own_counter_block(way: Callable[[bytes], Fill], count: int) -> None:
    fill = way(KEY)
    for piece in (3, 0, 1 << 40, 3):  # in any order, and again
        block = piece.to_bytes(12, "big") + b"\0\0\0\2"
        expected = Cipher(algorithms.AES(KEY), modes.CTR(block)).encryptor().update(bytes(count))
        assert stream(fill, piece, count) == expected


@WAYS
@pytest.mark.parametrize("count", [0, PIECE_BYTES + 1])
def test_a_piece_of_another_length_is_refused(way: Callable[[bytes], Fill], count: int) -> None:
    with pytest.raises(ValueError, match="piece of keystream"):
        stream(way(KEY), 0, count)


@pytest.mark.parametrize(("slow", "fast"), [("by_gcm", "by_ctr"), ("by_ctr", "by_gcm")])
def test_the_faster_way_is_taken(slow: str, fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]

    def way(name: str, takes: float) -> Callable[[bytes], Fill]:
        def start(key: bytes) -> Fill:
            def fill(piece: int, room: memoryview) -> None:
                seconds[0] += takes

            return fill

        monkeypatch.setattr(keystream, name, start)
        return start

    way(slow, 2e-4)
    expected = way(fast, 1e-4)
    monkeypatch.setattr("time.perf_counter", lambda: seconds[0])
    assert keystream._fastest.__wrapped__() is expected
