"""The promises of chunkserver.interface.ChunkStore, held by every implementation.

One store serves all tests of this file, so every test takes fids of its own from `fids`.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from chunkserver.interface import CHUNK_BYTES_MAX, ChunkStore
from native.checksum import crc32c
from tests.chunkserver.rooms import KINDS, store_of
from wire.errors import (
    BadRequest,
    ChecksumMismatch,
    ChunkConflict,
    ChunkNotFound,
    PayloadTooLarge,
    RangeNotSatisfiable,
)

KIB = 1024
BLOCK = 256 * KIB
_fids = itertools.count(1000)


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkStore]:
    with store_of(request.param, tmp_path_factory.mktemp("chunks")) as opened:
        yield opened


@pytest.fixture
def fids() -> Iterator[int]:
    return _fids


def some_bytes(length: int, seed: int = 1) -> bytes:
    return random.Random(seed * 1_000_003 + length).randbytes(length)


def put(store: ChunkStore, fid: int, payload: bytes) -> None:
    store.put(fid, payload, crc32c(payload))


def get(store: ChunkStore, fid: int, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xaa" * length)
    assert store.read_into(fid, offset, buffer) == crc32c(buffer)
    return bytes(buffer)


@pytest.mark.parametrize(
    "length", [0, 1, 63, 64, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17, 4 * KIB * KIB, 5 * KIB * KIB + 3]
)
def test_a_chunk_reads_back_as_it_was_put(store: ChunkStore, fids: Iterator[int], length: int) -> None:
    fid, payload = next(fids), some_bytes(length)
    put(store, fid, payload)
    assert get(store, fid, 0, length) == payload
    info = store.info(fid)
    assert (info.fid, info.length, info.crc32c) == (fid, length, crc32c(payload))


def test_the_largest_chunk_is_taken_and_one_byte_more_is_refused(store: ChunkStore, fids: Iterator[int]) -> None:
    fid, other = next(fids), next(fids)
    payload = some_bytes(KIB * KIB) * (CHUNK_BYTES_MAX // (KIB * KIB))
    put(store, fid, payload)
    assert get(store, fid, CHUNK_BYTES_MAX - 5, 5) == payload[-5:]
    assert get(store, fid, 0, CHUNK_BYTES_MAX) == payload
    with pytest.raises(PayloadTooLarge):
        put(store, other, payload + b"x")
    with pytest.raises(ChunkNotFound):
        store.info(other)
    store.delete(fid)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (1, 62), (BLOCK - 1, 2), (BLOCK, BLOCK), (BLOCK + 5, 2 * BLOCK), (3 * BLOCK + 16, 1), (0, 0), (17, 0)],
)
def test_any_part_of_a_chunk_can_be_read(store: ChunkStore, fids: Iterator[int], offset: int, length: int) -> None:
    fid, payload = next(fids), some_bytes(3 * BLOCK + 17)
    put(store, fid, payload)
    assert get(store, fid, offset, length) == payload[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (100, 1), (99, 2), (1000, 1), (101, 0), (-1, 1)])
def test_a_read_beyond_the_end_is_refused(store: ChunkStore, fids: Iterator[int], offset: int, length: int) -> None:
    fid = next(fids)
    put(store, fid, some_bytes(100))
    with pytest.raises(RangeNotSatisfiable):
        get(store, fid, offset, length)


def test_no_byte_of_an_empty_chunk_can_be_read(store: ChunkStore, fids: Iterator[int]) -> None:
    fid = next(fids)
    put(store, fid, b"")
    assert get(store, fid, 0, 0) == b""
    with pytest.raises(RangeNotSatisfiable):
        get(store, fid, 0, 1)


def test_an_unknown_chunk_is_not_found(store: ChunkStore, fids: Iterator[int]) -> None:
    fid = next(fids)
    with pytest.raises(ChunkNotFound):
        store.info(fid)
    with pytest.raises(ChunkNotFound):
        get(store, fid, 0, 1)
    with pytest.raises(ChunkNotFound):
        get(store, fid, 0, 0)
    assert store.delete(fid) is False


def test_the_same_bytes_again_succeed_and_change_nothing(store: ChunkStore, fids: Iterator[int]) -> None:
    fid, payload = next(fids), some_bytes(5000)
    put(store, fid, payload)
    info, chunks = store.info(fid), store.stat().chunks
    put(store, fid, payload)
    assert store.info(fid) == info
    assert store.stat().chunks == chunks


@pytest.mark.parametrize("other", [some_bytes(5000, seed=2), some_bytes(4999), b""])
def test_other_bytes_under_a_known_fid_are_refused(store: ChunkStore, fids: Iterator[int], other: bytes) -> None:
    fid, payload = next(fids), some_bytes(5000)
    put(store, fid, payload)
    with pytest.raises(ChunkConflict):
        put(store, fid, other)
    assert get(store, fid, 0, 5000) == payload


def test_bytes_that_differ_from_their_checksum_are_not_stored(store: ChunkStore, fids: Iterator[int]) -> None:
    fid, payload = next(fids), some_bytes(5000)
    with pytest.raises(ChecksumMismatch):
        store.put(fid, payload, crc32c(payload) ^ 1)
    with pytest.raises(ChunkNotFound):
        store.info(fid)
    put(store, fid, payload)


@pytest.mark.parametrize("fid", [0, -1, 1 << 64])
def test_what_is_no_fid_is_refused(store: ChunkStore, fid: int) -> None:
    with pytest.raises(BadRequest):
        put(store, fid, b"x")
    with pytest.raises(BadRequest):
        store.info(fid)
    with pytest.raises(BadRequest):
        get(store, fid, 0, 1)
    with pytest.raises(BadRequest):
        store.delete(fid)


@pytest.mark.parametrize("crc", [-1, 1 << 32])
def test_what_is_no_checksum_is_refused(store: ChunkStore, fids: Iterator[int], crc: int) -> None:
    with pytest.raises(BadRequest):
        store.put(next(fids), b"x", crc)


def test_buffers_of_every_kind_are_taken_and_not_kept(store: ChunkStore, fids: Iterator[int]) -> None:
    payload = some_bytes(9000)
    memory = bytearray(payload)
    view = memoryview(memory)[1000:8000]
    for kind in (payload, bytearray(payload), memoryview(payload)):
        fid = next(fids)
        store.put(fid, kind, crc32c(payload))
        assert get(store, fid, 0, 9000) == payload
    fid = next(fids)
    store.put(fid, view, crc32c(view))
    memory[:] = b"\0" * 9000  # the caller may use its buffer again at once
    target = bytearray(7002)
    store.read_into(fid, 0, memoryview(target)[1:7001])
    assert target == b"\0" + payload[1000:8000] + b"\0"


def test_a_deleted_chunk_is_gone(store: ChunkStore, fids: Iterator[int]) -> None:
    fid = next(fids)
    put(store, fid, some_bytes(5000))
    before = store.stat()
    assert store.delete(fid) is True
    assert store.delete(fid) is False
    with pytest.raises(ChunkNotFound):
        store.info(fid)
    with pytest.raises(ChunkNotFound):
        get(store, fid, 0, 1)
    after = store.stat()
    assert after.chunks == before.chunks - 1
    assert after.live_bytes < before.live_bytes
    assert after.fid_max == before.fid_max >= fid


def test_a_listing_is_ascending_and_goes_on_where_it_stopped(store: ChunkStore, fids: Iterator[int]) -> None:
    wanted = [next(fids) for _ in range(7)]
    for fid in random.Random(3).sample(wanted, 7):
        put(store, fid, some_bytes(fid % 50))
    after = wanted[0] - 1
    assert [info.fid for info in store.list_chunks(after)] == wanted
    assert store.list_chunks(after)[2] == store.info(wanted[2])
    first = store.list_chunks(after, limit=3)
    second = store.list_chunks(first[-1].fid, limit=3)
    third = store.list_chunks(second[-1].fid, limit=3)
    assert [info.fid for info in first + second + third] == wanted
    assert store.list_chunks(wanted[-1]) == []
    store.delete(wanted[3])
    assert [info.fid for info in store.list_chunks(after)] == wanted[:3] + wanted[4:]


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_listing_is_bounded(store: ChunkStore, limit: int) -> None:
    with pytest.raises(BadRequest):
        store.list_chunks(0, limit)


def test_stat_counts_what_is_stored(store: ChunkStore, fids: Iterator[int]) -> None:
    before = store.stat()
    fid = next(fids)
    put(store, fid, some_bytes(100_000))
    after = store.stat()
    assert (after.chunks, after.fid_max, after.state) == (before.chunks + 1, fid, "rw")
    assert after.live_bytes - before.live_bytes >= 100_000
    assert 0 < after.free_bytes <= after.total_bytes
    assert after.server_id == before.server_id != ""
    assert after.volumes >= 1
    assert after.volumes_failed == 0


def test_many_threads_put_and_read_at_once(store: ChunkStore, fids: Iterator[int]) -> None:
    work = [(next(fids), some_bytes(random.Random(n).randrange(40_000), seed=n)) for n in range(96)]

    def one(fid: int, payload: bytes) -> bool:
        put(store, fid, payload)
        return get(store, fid, 0, len(payload)) == payload

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda item: one(*item), work))


def test_of_different_bytes_put_at_once_under_one_fid_one_wins(store: ChunkStore, fids: Iterator[int]) -> None:
    fid = next(fids)
    payloads = [some_bytes(20_000, seed=n) for n in range(8)]
    barrier = threading.Barrier(8, timeout=30)

    def one(payload: bytes) -> bool:
        barrier.wait()
        try:
            put(store, fid, payload)
        except ChunkConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(one, payloads))
    assert won.count(True) == 1
    assert get(store, fid, 0, 20_000) == payloads[won.index(True)]


def test_the_same_bytes_put_at_once_all_succeed(store: ChunkStore, fids: Iterator[int]) -> None:
    fid, payload = next(fids), some_bytes(50_000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: put(store, fid, payload), range(8)))
    assert [info.fid for info in store.list_chunks(fid - 1)] == [fid]


def test_the_highest_fid_is_a_fid(store: ChunkStore) -> None:
    # Last of the file for each store: fid_max stays at the top from here on.
    highest = (1 << 64) - 1
    put(store, highest, b"last")
    assert get(store, highest, 0, 4) == b"last"
    assert store.list_chunks(highest - 1)[0].fid == highest
    assert store.list_chunks(highest) == []
    store.delete(highest)
    assert store.stat().fid_max == highest
