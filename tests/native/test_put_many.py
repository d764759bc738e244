"""Many chunks in one call: each has its own answer, and together they cost few syncs."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.engine import CHUNK_BYTES_MAX, PUT_MANY_MAX, Engine
from native.errors import ChecksumMismatch, ChunkExists, DiskFull, EngineError, RangeInvalid

from .conftest import MIB, OpenStore

Item = tuple[int, bytes, int]


def item(fid: int, payload: bytes) -> Item:
    return fid, payload, crc32c(payload)


def holds(engine: Engine, chunk: Item) -> bool:
    buffer = bytearray(len(chunk[1]))
    engine.read_into(chunk[0], 0, buffer)
    return bytes(buffer) == chunk[1]


def test_many_chunks_of_one_call_read_back_also_after_reopening(open_store: OpenStore) -> None:
    chunks = [item(fid, os.urandom(fid * 37 % 9000)) for fid in range(1, 301)]
    engine = open_store()
    assert engine.put_many(chunks) == [None] * len(chunks)
    assert engine.stat().syncs < len(chunks) / 2
    engine.close()
    engine = open_store()
    assert all(holds(engine, chunk) for chunk in chunks)
    assert engine.put_many([]) == []


@pytest.mark.parametrize("appenders", [1, 4])
def test_large_and_small_chunks_mix_in_one_call(open_store: OpenStore, appenders: int) -> None:
    """Large ones are written by the threads that wait for them; here one thread waits for all."""
    chunks = [item(fid, os.urandom(2 * MIB if fid % 3 == 0 else 100)) for fid in range(1, 13)]
    engine = open_store(appenders=appenders, volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(engine.put_many, [chunks[0:4], chunks[4:8], chunks[8:12]]))
    assert answers == [[None] * 4] * 3
    assert all(holds(engine, chunk) for chunk in chunks)


def test_each_chunk_of_a_call_has_its_own_answer(open_store: OpenStore) -> None:
    engine = open_store()
    known = item(1, b"known")
    assert engine.put_many([known]) == [None]
    answers = engine.put_many(
        [
            known,
            item(1, b"other bytes"),
            (2, b"damaged on the way", 7),
            item(3, b"good"),
            item(3, b"good"),
            item(3, b"evil"),
            item(4, bytes(CHUNK_BYTES_MAX + 1)),
            item(5, b""),
        ]
    )
    kinds = [type(answer) for answer in answers]
    none = type(None)
    assert kinds == [none, ChunkExists, ChecksumMismatch, none, none, ChunkExists, RangeInvalid, none]
    assert [info.fid for info in engine.iterate()] == [1, 3, 5]
    assert holds(engine, known)
    assert holds(engine, item(3, b"good"))


def test_a_damaged_copy_is_replaced_by_a_call_for_many(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    chunk = item(9, os.urandom(5000))
    assert engine.put_many([chunk]) == [None]
    info = engine.info(9)
    with (fast_directory / f"v{info.volume:08d}.dat").open("r+b") as file:
        file.seek(info.offset + 1000)
        file.write(b"damage")
    assert engine.put_many([item(8, b"before"), chunk, item(10, b"behind")]) == [None] * 3
    assert holds(engine, chunk)
    assert engine.info(9).offset != info.offset


def test_a_full_disk_refuses_each_chunk_for_itself_and_loses_nothing(open_store: OpenStore) -> None:
    engine = open_store()
    kept = item(1, b"kept")
    assert engine.put_many([kept]) == [None]
    engine.close()
    engine = open_store(reserve_bytes=1 << 60)
    answers = engine.put_many([item(fid, os.urandom(MIB)) for fid in range(2, 30)])
    assert any(isinstance(answer, DiskFull) for answer in answers)
    stored = {fid for fid, answer in enumerate(answers, start=2) if answer is None}
    assert {info.fid for info in engine.iterate()} == stored | {1}
    assert holds(engine, kept)


def test_too_many_chunks_and_a_closed_store_are_refused(open_store: OpenStore) -> None:
    engine = open_store()
    answers = engine.put_many([item(1, b"x")] * (PUT_MANY_MAX + 1))
    assert {type(answer) for answer in answers} == {EngineError}
    assert engine.iterate() == []
    with pytest.raises(EngineError):
        engine.put_many([item(0, b"no fid")])
    engine.close()
    assert [type(answer) for answer in engine.put_many([item(1, b"x")])] == [EngineError]
