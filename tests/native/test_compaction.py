"""Compaction on a real file system: what comes back, what stays, and what goes on meanwhile."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from native.engine import Engine
from native.errors import ChunkCorrupt, ChunkNotFound, DiskFull, EngineError, StoreBusy, VolumeNotFound

from .conftest import MIB, OpenStore
from .stores import accounted, put, read

WAIT_S = 60.0
NEVER = 0.0


def get(engine: Engine, fid: int) -> bytes | None:
    """As in stores, but a bad copy is an error here."""
    try:
        return read(engine, fid)
    except ChunkNotFound:
        return None


def payload_of(fid: int, length: int) -> bytes:
    return random.Random(fid).randbytes(length)


def taken_bytes(directory: Path) -> int:
    """What the directory's files take from the file system."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def fill(engine: Engine, lengths: dict[int, int], delete: Callable[[int], bool]) -> dict[int, bytes]:
    """Puts chunks of these lengths, deletes some, and returns what is left."""
    left = {}
    for fid, length in lengths.items():
        payload = payload_of(fid, length)
        put(engine, fid, payload)
        left[fid] = payload
    for fid in lengths:
        if delete(fid):
            assert engine.delete(fid)
            del left[fid]
    return left


def check(engine: Engine, left: dict[int, bytes]) -> None:
    assert [chunk.fid for chunk in engine.iterate(limit=1_000_000)] == sorted(left)
    for fid, payload in left.items():
        assert get(engine, fid) == payload
    assert accounted(engine)
    stat = engine.stat()
    assert (stat.volumes_failed, stat.volumes_quarantined, stat.damaged_records, stat.unknown_files) == (0, 0, 0, 0)


def test_small_deleted_chunks_give_their_space_back(open_store: OpenStore, tmp_path: Path) -> None:
    engine = open_store(tmp_path, compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 3001), 3000), lambda fid: fid % 5 != 0)
    engine.checkpoint()
    before = taken_bytes(tmp_path)
    free_before = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize
    report = engine.compact(below=0.9)
    given_back = before - taken_bytes(tmp_path)
    standby = sum(volume.size_bytes for volume in engine.volumes() if volume.state != "sealed")
    packed = sum(len(payload) for payload in left.values())
    assert taken_bytes(tmp_path) - standby < 1.1 * packed + 0.1 * MIB
    assert report.chunks_copied == len(left)
    assert not report.stopped
    assert 0 < report.bytes_given_back <= given_back
    freed = os.statvfs(tmp_path).f_bfree * os.statvfs(tmp_path).f_frsize - free_before
    # Others use the file system too.
    assert freed > given_back - 64 * MIB
    check(engine, left)
    assert engine.stat().fid_max == 3000
    engine.close()
    engine = open_store(tmp_path)
    check(engine, left)
    assert engine.stat().fid_max == 3000


def test_compacting_again_finds_nothing_and_reopening_changes_no_byte(
    open_store: OpenStore, fast_directory: Path
) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 1501), 2000), lambda fid: fid % 3 != 0)
    assert engine.compact(below=1.0).volumes_made > 0
    again = engine.compact(below=1.0)
    assert (again.volumes_made, again.volumes_removed, again.bytes_copied) == (0, 0, 0)
    engine.close()
    files = {path.name: path.read_bytes() for path in fast_directory.iterdir()}
    engine = open_store()
    check(engine, left)
    engine.close()
    assert {path.name: path.read_bytes() for path in fast_directory.iterdir()} == files
    for path in fast_directory.glob("*.ckp*"):
        path.unlink()
    check(open_store(), left)


def test_volumes_without_a_live_chunk_are_just_removed(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store(compact_below=NEVER)
    fill(engine, dict.fromkeys(range(1, 1001), 5000), lambda _: True)
    report = engine.compact(below=0.5)
    assert report.volumes_removed > 1
    assert (report.volumes_made, report.bytes_copied) == (0, 0)
    assert {volume.state for volume in engine.volumes()} <= {"standby", "active"}
    for _ in range(2):
        check(engine, {})
        assert engine.stat().fid_max == 1000
        engine.close()
        engine = open_store(compact_below=NEVER)
    assert not list(fast_directory.glob("v00000001.*"))


def test_what_the_blocks_of_large_chunks_gave_back_is_not_counted_twice(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    fill(engine, dict.fromkeys(range(1, 41), 200_000), lambda fid: fid % 8 != 0)
    engine.checkpoint()  # punches: only headers and edges of the dead chunks still take space
    assert engine.compact(below=0.7).volumes_made == 0


def test_it_works_in_the_reserve_when_the_disk_is_full_for_others(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 2001), 4096), lambda fid: fid % 4 != 0)
    engine.close()
    engine = open_store(
        compact_below=NEVER, reserve_bytes=1 << 60, volume_size_first=64 * MIB, volume_size_max=64 * MIB
    )
    with pytest.raises(DiskFull):
        put(engine, 9999, bytes(4 * MIB))  # more than any volume has left
    before = taken_bytes(fast_directory)
    assert engine.compact(below=0.9).volumes_made == 1
    assert taken_bytes(fast_directory) < before - 6 * MIB
    check(engine, left)


def test_created_time_and_place_order_survive(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, {fid: 100 * fid for fid in range(1, 200)}, lambda fid: fid % 2 == 0)
    before = {chunk.fid: (chunk.length, chunk.crc32c, chunk.created_s) for chunk in engine.iterate()}
    engine.compact(below=1.0)
    after = {chunk.fid: (chunk.length, chunk.crc32c, chunk.created_s) for chunk in engine.iterate()}
    assert after == before
    check(engine, left)


@pytest.fixture
def damaged(open_store: OpenStore, fast_directory: Path) -> tuple[Engine, dict[int, bytes], int]:
    """A store that is worth compacting, and a live chunk of it with a flipped bit on the disk."""
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 1001), 4000), lambda fid: fid % 4 != 0)
    fid = 400
    chunk = engine.info(fid)
    path = fast_directory / f"v{chunk.volume:08d}.dat"
    with path.open("r+b") as file:
        file.seek(chunk.offset + 128 + 1234)
        byte = file.read(1)[0]
        file.seek(chunk.offset + 128 + 1234)
        file.write(bytes([byte ^ 16]))
    return engine, left, fid


def test_a_damaged_chunk_stays_known_as_damaged_and_keeps_its_volume(
    damaged: tuple[Engine, dict[int, bytes], int], open_store: OpenStore
) -> None:
    engine, left, fid = damaged
    volume = engine.info(fid).volume
    report = engine.compact(below=0.9)
    assert report.volumes_damaged == 1
    assert report.volumes_removed > 0
    for _ in range(2):
        assert engine.info(fid).volume == volume
        with pytest.raises(ChunkCorrupt):
            get(engine, fid)
        for other, payload in left.items():
            if other != fid:
                assert get(engine, other) == payload
        engine.close()
        engine = open_store(compact_below=NEVER)
    put(engine, fid, left[fid])  # a repair from a peer
    report = engine.compact(below=0.9)
    assert report.volumes_damaged == 0
    assert volume not in {volume.id for volume in engine.volumes()}
    check(engine, left)


def test_no_flipped_bit_of_the_manifest_brings_replaced_volumes_back(
    open_store: OpenStore, fast_directory: Path
) -> None:
    """A crash left the files of what was compacted, and the record of it is damaged."""
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 901), 3000), lambda fid: fid % 3 != 0)
    engine.checkpoint()
    before = {path.name: path.read_bytes() for path in fast_directory.glob("v*")}
    assert engine.compact(below=1.0).volumes_made == 1
    for fid in list(left)[::2]:
        assert engine.delete(fid)  # known to the new volume alone
        del left[fid]
    engine.close()
    after = {path.name: path.read_bytes() for path in fast_directory.iterdir()}
    files = {name: content for name, content in before.items() if name not in after} | after
    compact = [at for at in range(0, len(after["MANIFEST"]) - 255, 256) if after["MANIFEST"][at + 6] == 6]
    assert len(compact) == 2  # twice, in different sectors
    chance = random.Random(3)
    bits = [8 * at + bit for at in compact for bit in chance.sample(range(8 * 256), 25)]
    for bit in [*bits, *chance.sample(range(8 * len(after["MANIFEST"])), 20)]:
        for path in fast_directory.iterdir():
            path.unlink()
        damaged = bytearray(after["MANIFEST"])
        damaged[bit // 8] ^= 1 << bit % 8
        for name, content in (files | {"MANIFEST": bytes(damaged)}).items():
            (fast_directory / name).write_bytes(content)
        engine = open_store(compact_below=NEVER)
        assert [chunk.fid for chunk in engine.iterate(limit=10_000)] == sorted(left), f"bit {bit}"
        for fid in list(left)[::20]:
            assert get(engine, fid) == left[fid]
        engine.close()


def test_puts_reads_and_deletes_go_on_meanwhile(open_store: OpenStore) -> None:
    engine = open_store(compact_below=0.9, compact_every_s=0.05, checkpoint_s=0.1)
    failures: list[BaseException] = []
    ended = threading.Event()

    def work(thread: int) -> None:
        chance = random.Random(thread)
        mine: dict[int, bytes] = {}
        try:
            for fid in range(thread * 100_000 + 1, thread * 100_000 + 1500):
                mine[fid] = payload_of(fid, chance.choice([0, 10, 900, 4096, 9000, 300_000]))
                put(engine, fid, mine[fid])
                if len(mine) > 150:
                    victim = chance.choice(sorted(mine))
                    assert engine.delete(victim)
                    del mine[victim]
                    assert get(engine, victim) is None
                some = chance.choice(sorted(mine))
                assert get(engine, some) == mine[some]
            kept.update(mine)
        except BaseException as exc:  # noqa: BLE001 - told by the main thread
            failures.append(exc)

    def compact() -> None:
        while not ended.is_set():
            engine.compact(below=1.0)

    kept: dict[int, bytes] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    compactor = threading.Thread(target=compact)
    for thread in [*threads, compactor]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    compactor.join()
    assert not failures
    assert engine.stat().compactions > 0
    assert engine.stat().compaction_failures == 0
    check(engine, kept)
    engine.close()
    check(open_store(), kept)


def test_it_runs_by_itself(open_store: OpenStore, fast_directory: Path) -> None:
    engine = open_store(compact_every_s=0.05)
    left = fill(engine, dict.fromkeys(range(1, 3001), 4096), lambda fid: fid % 10 != 0)
    waited = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        if engine.stat().given_back_bytes > 8 * MIB:
            break
        waited.wait(0.05)
    assert engine.stat().given_back_bytes > 8 * MIB
    check(engine, left)


def test_a_slow_one_ends_at_once_when_the_store_is_closed(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 1001), 4096), lambda fid: fid % 2 == 0)
    reports = []
    errors: list[EngineError] = []

    def compact() -> None:
        try:
            reports.append(engine.compact(below=1.0, bytes_s=1))
        except EngineError as exc:
            errors.append(exc)

    thread = threading.Thread(target=compact)
    thread.start()
    waited = threading.Event()
    while engine.stat().compacted_bytes == 0:  # it has written, and now has to wait for years
        waited.wait(0.01)
    with pytest.raises(StoreBusy):
        engine.compact()
    engine.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert not errors
    assert reports[0].stopped
    check(open_store(compact_below=NEVER), left)


def test_it_can_be_cancelled_and_then_done(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 1001), 4096), lambda fid: fid % 2 == 0)
    reports = []
    thread = threading.Thread(target=lambda: reports.append(engine.compact(below=1.0, bytes_s=1)))
    thread.start()
    waited = threading.Event()
    while engine.stat().compacted_bytes == 0:
        waited.wait(0.01)
    engine.cancel_compaction()
    thread.join(WAIT_S)
    assert reports[0].stopped
    assert reports[0].volumes_removed == 0
    assert engine.compact(below=1.0).volumes_removed > 0
    check(engine, left)


@pytest.mark.parametrize("below", [0.0, -1.0, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(open_store: OpenStore, below: float) -> None:
    with pytest.raises(EngineError, match="share"):
        open_store().compact(below=below)


def test_named_volumes_are_compacted_whatever_they_hold_and_no_other(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    left = fill(engine, dict.fromkeys(range(1, 3001), 3000), lambda fid: fid > 1500 and fid % 5 != 0)
    engine.checkpoint()
    before = {volume.id: volume for volume in engine.volumes() if volume.state == "sealed"}
    full = next(volume for volume in before.values() if volume.dead_bytes == 0)
    report = engine.compact(below=0.01, volumes=[full.id])
    assert (report.volumes_removed, report.volumes_made, report.chunks_copied) == (1, 1, full.chunks)
    after = {volume.id for volume in engine.volumes()}
    assert before.keys() - after == {full.id}
    check(engine, left)
    with pytest.raises(VolumeNotFound):
        engine.compact(volumes=[1 << 40])
    # One that takes chunks is closed for it.
    put(engine, 5000, payload_of(5000, 3000))
    left[5000] = payload_of(5000, 3000)
    active = engine.info(5000).volume
    assert engine.compact(volumes=[active]).volumes_removed == 1
    assert engine.info(5000).volume != active
    check(engine, left)


def test_what_a_compaction_gives_back_is_counted_while_it_goes_on(open_store: OpenStore) -> None:
    engine = open_store(compact_below=NEVER)
    fill(engine, dict.fromkeys(range(1, 6001), 3000), lambda fid: fid % 2 != 0)
    done = threading.Event()
    reports = []

    def compact() -> None:
        reports.append(engine.compact(1.0, bytes_s=2 * MIB))
        done.set()

    thread = threading.Thread(target=compact)
    thread.start()
    seen = 0
    while not done.wait(0.01):
        seen = seen or engine.stat().given_back_bytes
        if seen:
            engine.cancel_compaction()
    thread.join(WAIT_S)
    assert 0 < seen <= reports[0].bytes_given_back == engine.stat().given_back_bytes
