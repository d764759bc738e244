"""Opening a store of very many chunks: room for them is made first, and several threads take large checkpoints in."""

import os
from pathlib import Path

from native.checksum import crc32c
from native.engine import Engine

from .conftest import MIB, OpenStore, copy_running_store

CHUNKS = 240_000  # more than two threads' worth in one volume
AT_ONCE = 4000


def contents(engine: Engine) -> list[tuple[int, int, int, int, int]]:
    found = engine.iterate(limit=CHUNKS + 1)
    return [(chunk.fid, chunk.volume, chunk.offset, chunk.length, chunk.crc32c) for chunk in found]


def test_every_chunk_of_large_checkpoints_is_found_again_and_no_deleted_one(
    open_store: OpenStore, fast_directory: Path, tmp_path: Path
) -> None:
    large = {"volume_size_first": 64 * MIB, "volume_size_max": 64 * MIB, "sync": False}
    engine = open_store(**large)
    for start in range(1, CHUNKS + 1, AT_ONCE):
        payloads = [(fid, b"%d" % fid) for fid in range(start, start + AT_ONCE)]
        assert not any(engine.put_many([(fid, payload, crc32c(payload)) for fid, payload in payloads]))
    engine.checkpoint()
    for fid in range(7, CHUNKS, 1000):  # known to the delete log alone, once the checkpoint is read
        assert engine.delete(fid)
    expected, before = contents(engine), engine.stat()
    assert len(expected) == CHUNKS - len(range(7, CHUNKS, 1000))
    copy = tmp_path / "copy"
    copy_running_store(fast_directory, copy)
    again = open_store(copy, **large)
    assert contents(again) == expected
    after = again.stat()
    assert (after.chunks, after.live_bytes, after.payload_bytes) == (
        before.chunks,
        before.live_bytes,
        before.payload_bytes,
    )
    for fid in range(1, CHUNKS, 9973):
        buffer = bytearray(len(b"%d" % fid))
        again.read_into(fid, 0, buffer)
        assert buffer == b"%d" % fid


def test_no_room_is_made_for_chunks_that_only_the_length_of_a_checkpoint_promises(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    engine.put(1, b"x", crc32c(b"x"))
    engine.close()
    os.truncate(fast_directory / "v00000001.ckp", 64 * MIB)  # two million entries
    engine = open_store()
    assert [(chunk.fid, chunk.length) for chunk in engine.iterate()] == [(1, 1)]
    assert engine.stat().index_bytes < MIB
