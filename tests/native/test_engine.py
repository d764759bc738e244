"""The engine through its Python face."""

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.engine import CHUNK_BYTES_MAX, Engine, EngineOptions
from native.errors import (
    ChecksumMismatch,
    ChunkCorrupt,
    ChunkExists,
    ChunkNotFound,
    DiskFull,
    EngineError,
    RangeInvalid,
    StoreBusy,
    StoreLocked,
    StoreMismatch,
)

from .conftest import CLUSTER_ID, MIB, OpenStore
from .stores import accounted, put, read

BLOCK = 256 * 1024
LENGTHS = [0, 1, 63, 64, 65, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 17]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_chunk_reads_back_whole_and_in_every_range_also_after_reopening(open_store: OpenStore, length: int) -> None:
    payload = os.urandom(length)
    engine = open_store()
    put(engine, 7, payload)
    edges = sorted({0, 1, length // 2, length - 1, length, *range(0, length, BLOCK)} & set(range(length + 1)))
    for _ in range(2):
        assert read(engine, 7) == payload
        for start in edges:
            for end in edges:
                if start <= end:
                    buffer = bytearray(end - start)
                    engine.read_into(7, start, buffer)
                    assert buffer == payload[start:end]
        engine.close()
        engine = open_store()


def test_info_and_iterate_describe_what_was_put(open_store: OpenStore) -> None:
    engine = open_store()
    payloads = {fid: os.urandom(fid % 2000) for fid in random.Random(1).sample(range(1, 1 << 20), 50)}
    for fid, payload in payloads.items():
        put(engine, fid, payload)
    listed = engine.iterate()
    assert [chunk.fid for chunk in listed] == sorted(payloads)
    for chunk in listed:
        assert chunk == engine.info(chunk.fid)
        assert (chunk.length, chunk.crc32c) == (len(payloads[chunk.fid]), crc32c(payloads[chunk.fid]))
    assert len({(chunk.volume, chunk.offset) for chunk in listed}) == len(listed)
    assert engine.stat().fid_max == max(payloads)


def test_iterate_pages_without_gaps_while_chunks_come_and_go(open_store: OpenStore) -> None:
    engine = open_store()
    expected = set(range(10, 2010, 10))
    for fid in expected:
        put(engine, fid, b"x")
    seen: list[int] = []
    while page := engine.iterate(seen[-1] if seen else 0, 7):
        seen += [chunk.fid for chunk in page]
        last = seen[-1] // 10 * 10
        put(engine, last - 7, b"behind: must not appear")
        put(engine, last + 7, b"ahead: must appear")
        expected.add(last + 7)
        if engine.delete(last + 30):
            expected.remove(last + 30)
        if last >= 2000:
            break
    seen += [chunk.fid for chunk in engine.iterate(seen[-1])]
    assert seen == sorted(expected)
    assert engine.iterate(2**64 - 1) == []


def test_the_same_chunk_again_is_fine_and_other_bytes_are_refused(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, b"first")
    put(engine, 1, b"first")
    with pytest.raises(ChunkExists):
        put(engine, 1, b"other")
    with pytest.raises(ChunkExists):
        put(engine, 1, b"first and more")
    assert read(engine, 1) == b"first"
    assert engine.stat().appends == 1


def test_a_wrong_checksum_stores_nothing(open_store: OpenStore) -> None:
    engine = open_store()
    with pytest.raises(ChecksumMismatch) as caught:
        engine.put(1, b"payload", 12345)
    assert (caught.value.expected, caught.value.actual) == (12345, crc32c(b"payload"))
    assert 1 not in engine
    assert engine.stat().appends == 0


@pytest.mark.parametrize(("offset", "length"), [(11, 0), (0, 11), (10, 1), (5, 6), (2**63, 1), (2**64 - 1, 5), (-1, 1)])
def test_a_range_beyond_the_end_is_refused(open_store: OpenStore, offset: int, length: int) -> None:
    engine = open_store()
    put(engine, 1, b"0123456789")
    with pytest.raises(RangeInvalid):
        engine.read_into(1, offset, bytearray(length))


def test_arguments_that_are_never_valid_are_refused(open_store: OpenStore) -> None:
    engine = open_store()
    for fid in (0, -1, 2**64):
        with pytest.raises(EngineError):
            put(engine, fid, b"x")
    with pytest.raises(RangeInvalid):
        put(engine, 1, bytes(CHUNK_BYTES_MAX + 1))
    with pytest.raises((TypeError, ValueError, BufferError)):
        engine.read_into(1, 0, b"not writable")  # type: ignore[arg-type]
    with pytest.raises(ChunkNotFound):
        engine.read_into(1, 0, bytearray(1))
    with pytest.raises(EngineError, match="volume sizes"):
        open_store(volume_size_first=1)


def test_the_largest_chunk_fits_in_a_volume_made_for_it(open_store: OpenStore) -> None:
    engine = open_store()
    payload = os.urandom(MIB) * (CHUNK_BYTES_MAX // MIB)
    put(engine, 1, b"small")
    put(engine, 2, payload)
    put(engine, 3, b"small")
    assert read(engine, 2) == payload
    engine.close()
    assert read(open_store(), 2) == payload


def test_memoryviews_are_taken_and_filled_in_place(open_store: OpenStore) -> None:
    engine = open_store()
    source = bytearray(os.urandom(1000))
    view = memoryview(source)[100:900]
    engine.put(1, view, crc32c(view))
    target = bytearray(1000)
    engine.read_into(1, 0, memoryview(target)[100:900])
    assert target[100:900] == source[100:900]
    assert target[:100] + target[900:] == bytes(200)


def test_a_deleted_chunk_is_gone_for_good_and_gives_its_space_back(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    payload = os.urandom(600_000)
    put(engine, 1, payload)
    put(engine, 2, b"stays")
    used = (fast_directory / "v00000001.dat").stat().st_blocks
    assert engine.delete(1)
    assert not engine.delete(1)
    engine.checkpoint()
    assert (fast_directory / "v00000001.dat").stat().st_blocks <= used - 590_000 // 512
    assert engine.stat().punched_bytes >= 590_000
    for _ in range(2):
        assert 1 not in engine
        assert read(engine, 2) == b"stays"
        assert accounted(engine)
        assert engine.stat().dead_bytes >= 600_000
        engine.close()
        for checkpoint in fast_directory.glob("*.ckp*"):
            checkpoint.unlink()
        engine = open_store()
    put(engine, 1, payload)
    assert read(engine, 1) == payload


def test_space_is_returned_after_reopening_when_the_punch_was_missed(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store()
    put(engine, 1, os.urandom(500_000))
    engine.delete(1)
    engine.close()
    for checkpoint in fast_directory.glob("*.ckp*"):
        checkpoint.unlink()  # it says what was punched
    with (fast_directory / "v00000001.dat").open("r+b") as volume:
        volume.seek(8192 + 4096)
        volume.write(b"as if never punched" * 1000)
    engine = open_store()
    engine.checkpoint()
    assert engine.stat().punched_bytes >= 490_000


def test_volumes_are_sealed_when_full_and_their_sizes_double(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    payloads = {fid: os.urandom(200_000) for fid in range(1, 60)}
    for fid, payload in payloads.items():
        put(engine, fid, payload)
    sizes = [path.stat().st_size for path in sorted(fast_directory.glob("v*.dat"))]
    assert sizes[:4] == [MIB, 2 * MIB, 4 * MIB, 4 * MIB]
    assert accounted(engine)
    engine.close()
    engine = open_store()
    assert {chunk.fid for chunk in engine.iterate()} == set(payloads)
    assert all(read(engine, fid) == payload for fid, payload in payloads.items())
    assert accounted(engine)


def test_the_next_volume_is_prepared_before_it_is_needed(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    put(engine, 1, bytes(700_000))
    waiting = threading.Event()
    for _ in range(200):
        if (fast_directory / "v00000002.dat").exists():
            break
        waiting.wait(0.05)
    assert (fast_directory / "v00000002.dat").exists()
    assert engine.info(1).volume == 1
    put(engine, 2, bytes(700_000))
    assert engine.info(2).volume == 2


def test_small_chunks_of_many_threads_share_a_sync(open_store: OpenStore) -> None:
    engine = open_store(volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda fid: put(engine, fid, b"%d" % fid), range(1, 2001)))
    stat = engine.stat()
    assert stat.appends == stat.chunks == 2000
    assert stat.syncs == stat.batches < 2000
    assert all(read(engine, fid) == b"%d" % fid for fid in range(1, 2001))


def test_readers_never_see_a_chunk_being_deleted_and_punched_as_zeros(open_store: OpenStore) -> None:
    engine = open_store(volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    payload = os.urandom(500_000)
    crc = crc32c(payload)
    stop = threading.Event()
    wrong: list[str] = []

    def read_for_ever() -> None:
        buffer = bytearray(len(payload))
        fid = 1
        while not stop.is_set():
            try:
                engine.read_into(fid, 0, buffer)
                if buffer != payload:
                    wrong.append(f"fid {fid}")
            except ChunkNotFound:
                fid = fid % 40 + 1
            except ChunkCorrupt as error:
                wrong.append(str(error))

    readers = [threading.Thread(target=read_for_ever) for _ in range(3)]
    for reader in readers:
        reader.start()
    for fid in range(1, 41):
        engine.put(fid, payload, crc)
        if fid > 2:
            engine.delete(fid - 2)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_a_second_opener_is_refused_until_the_first_has_closed(open_store: OpenStore) -> None:
    engine = open_store()
    with pytest.raises(StoreLocked):
        open_store()
    timer = threading.Timer(0.2, engine.close)
    timer.start()
    put(open_store(lock_timeout_s=20.0), 1, b"mine now")
    timer.join()


def test_a_directory_of_another_cluster_is_refused_and_left_alone(open_store: OpenStore, fast_directory: Path) -> None:
    open_store().close()
    before = {path.name: path.read_bytes() for path in fast_directory.iterdir()}
    with pytest.raises(StoreMismatch, match="another cluster"):
        open_store(cluster_id="00000000-0000-0000-0000-000000000001")
    assert {path.name: path.read_bytes() for path in fast_directory.iterdir()} == before


def test_an_empty_directory_is_refused_where_a_store_is_expected(open_store: OpenStore) -> None:
    with pytest.raises(StoreMismatch, match="mounted"):
        open_store(create=False)


def test_a_full_disk_refuses_puts_allows_deletes_and_recovers(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, bytes(300_000))
    engine.close()
    free = engine_free_bytes(open_store)
    engine = open_store(reserve_bytes=free * 4)
    put(engine, 2, bytes(300_000))
    with pytest.raises(DiskFull):
        put(engine, 3, bytes(600_000))
    assert 3 not in engine
    assert engine.stat().state == "ro_full"
    put(engine, 4, b"what fits is taken")
    assert engine.delete(1)
    assert read(engine, 2) == bytes(300_000)
    engine.close()
    engine = open_store()
    put(engine, 3, bytes(600_000))
    assert engine.stat().state == "rw"


def engine_free_bytes(open_store: OpenStore) -> int:
    engine = open_store()
    free = engine.stat().total_bytes
    engine.close()
    return free


def test_more_bytes_than_the_queue_takes_are_refused_as_busy(open_store: OpenStore) -> None:
    engine = open_store(queue_bytes_max=1000, volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    payload = os.urandom(MIB)
    crc = crc32c(payload)
    outcomes: list[str] = []

    def offer(start: int) -> None:
        for fid in range(start, start + 30):
            try:
                engine.put(fid, payload, crc)
                outcomes.append("stored")
            except StoreBusy:
                outcomes.append("busy")

    threads = [threading.Thread(target=offer, args=(1 + 100 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"stored", "busy"} == set(outcomes)
    assert outcomes.count("stored") == engine.stat().chunks


def test_after_close_every_call_says_so_and_close_may_be_repeated(open_store: OpenStore) -> None:
    engine = open_store()
    put(engine, 1, b"x")
    engine.close()
    engine.close()
    calls: list[Callable[[], object]] = [
        lambda: put(engine, 2, b"y"),
        lambda: engine.read_into(1, 0, bytearray(1)),
        lambda: engine.info(1),
        lambda: engine.delete(1),
        engine.iterate,
        engine.stat,
        engine.checkpoint,
    ]
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            call()


def test_close_waits_for_puts_and_loses_none_that_were_acknowledged(open_store: OpenStore) -> None:
    engine = open_store(volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    acknowledged: list[int] = []

    def store_for_ever(start: int) -> None:
        for fid in range(start, start + 100_000):
            try:
                put(engine, fid, b"%d" % fid)
            except EngineError:
                return
            acknowledged.append(fid)

    threads = [threading.Thread(target=store_for_ever, args=(1 + 1_000_000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while len(acknowledged) < 200:
        threading.Event().wait(0.01)
    engine.close()
    for thread in threads:
        thread.join()
    engine = open_store(volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    assert all(read(engine, fid) == b"%d" % fid for fid in acknowledged)


def test_without_sync_chunks_are_there_after_a_clean_close(open_store: OpenStore) -> None:
    engine = open_store(sync=False)
    for fid in range(1, 100):
        put(engine, fid, os.urandom(20_000))
    engine.close()
    assert open_store().stat().chunks == 99


def test_reopening_changes_no_byte(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store()
    for fid in range(1, 30):
        put(engine, fid, os.urandom(100_000))
    for fid in range(1, 30, 4):
        engine.delete(fid)
    engine.close()
    before = {path.name: path.read_bytes() for path in fast_directory.iterdir()}
    for _ in range(2):
        open_store().close()
        assert {path.name: path.read_bytes() for path in fast_directory.iterdir()} == before


def test_the_index_needs_at_most_40_bytes_per_chunk(open_store: OpenStore) -> None:
    engine = open_store(sync=False, volume_size_first=64 * MIB, volume_size_max=64 * MIB)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda fid: put(engine, fid, b""), range(1, 20_001)))
    stat = engine.stat()
    assert stat.index_bytes <= 40 * stat.chunks + 32_768  # the fixed part: 256 shards


def test_options_name_the_cluster_by_uuid(fast_directory: Path) -> None:
    with pytest.raises(ValueError, match="UUID"):
        Engine.open(fast_directory, EngineOptions(cluster_id="not a uuid"))
    with Engine.open(
        fast_directory / "made" / "for me", EngineOptions(cluster_id=CLUSTER_ID, reserve_bytes=0)
    ) as engine:
        assert engine.stat().volumes == 0
