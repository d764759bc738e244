"""A ChunkServer with several disks: chunks are spread over them, and what happens to one stays with it."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from chunkserver.disk import CALLS_MAX, VOLUMES_PER_DISK
from native.checksum import crc32c
from native.engine import Engine
from native.values import Buffer
from tests.chunkserver.rooms import (
    CLUSTER_ID,
    MIB,
    OTHER_CLUSTER_ID,
    SMALL_VOLUMES,
    OpenStore,
    check,
    disk_of,
    engine_options,
    put,
)
from tests.disks import TwoDisks, small_disk
from tests.wire.no_threads import no_more_threads
from tests.wire.serving import wait_until
from wire.errors import ChunkConflict, ChunkNotFound, ChunkUnreadable, Conflict, Overloaded, StorageFull, Unavailable

COUNT = 60
WAIT_S = 30.0


def test_chunks_are_spread_and_all_are_there_after_a_restart(open_store: OpenStore, tmp_path: Path) -> None:
    disks = [tmp_path / name for name in ("a", "b", "c")]
    store = open_store(*disks)
    for fid in range(1, COUNT + 1):
        put(store, fid)
    assert {disk_of(store, fid) for fid in range(1, COUNT + 1)} == {1, 2, 3}
    places = store.list_chunks(0, 1000)
    assert [chunk.fid for chunk in places] == list(range(1, COUNT + 1))
    assert not (tmp_path / "data" / "disk").exists()
    assert store.stat().chunks == COUNT
    store.close()
    again = open_store(*reversed(disks))  # numbers stay, whatever order the setting has
    assert again.list_chunks(0, 1000) == places
    in_volumes = [chunk for volume in again.volumes() for chunk in again.volume_chunks(volume.id)]
    assert sorted(in_volumes, key=lambda chunk: chunk.fid) == places
    for fid in range(1, COUNT + 1):
        check(again, fid)
        put(again, fid)  # a replay
        with pytest.raises(ChunkConflict):
            again.put(fid, b"other", crc32c(b"other"))
    assert again.list_chunks(0, 1000) == places
    again.close()


def test_a_disk_that_is_away_takes_only_itself_down(open_store: OpenStore, tmp_path: Path) -> None:
    disks = [tmp_path / name for name in ("a", "b")]
    store = open_store(*disks)
    for fid in range(1, COUNT + 1):
        put(store, fid)
    lost = {fid for fid in range(1, COUNT + 1) if disk_of(store, fid) == 1}
    store.close()
    disks[0].rename(tmp_path / "unplugged")
    disks[0].mkdir()  # the mount point without its disk
    store = open_store(*disks)
    assert (store.stat().state, store.stat().disks, store.stat().disks_failed) == ("rw", 2, 1)
    for fid in range(1, COUNT + 1):
        if fid not in lost:
            check(store, fid)
            continue
        for call in (store.info, lambda fid: check(store, fid)):  # "not found" is nothing that is known
            with pytest.raises(Unavailable, match="mounted"):
                call(fid)
    for fid in range(1000, 1010):
        put(store, fid)
        assert disk_of(store, fid) == 2
        assert store.delete(fid)
    gone = set(sorted(lost)[::2])
    for fid in gone:
        assert not store.delete(fid)  # nobody knows if it is there, but it is not to come back
    assert os.listdir(disks[0]) == ["LOCK"]  # no store was made where the disk belongs
    store.close()
    shutil.rmtree(disks[0])
    (tmp_path / "unplugged").rename(disks[0])
    store = open_store(*disks)
    assert store.stat().disks_failed == 0
    for fid in range(1, COUNT + 1):
        if fid not in gone:
            check(store, fid)
    for fid in [1000, *gone]:
        with pytest.raises(ChunkNotFound):
            store.info(fid)
    assert not list((tmp_path / "data").glob("*.deleted"))
    store.close()


def test_the_first_place_is_missed_when_it_is_gone(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    put(store, 1)
    store.close()
    store = open_store(tmp_path / "new")
    store.close()
    (tmp_path / "data" / "disk").rename(tmp_path / "unplugged")
    store = open_store(tmp_path / "new")
    assert (store.stat().disks, store.stat().disks_failed) == (2, 1)
    with pytest.raises(Unavailable):
        store.info(1)
    store.close()
    (tmp_path / "unplugged").rename(tmp_path / "data" / "disk")
    store = open_store(tmp_path / "new")
    check(store, 1)
    store.close()


def test_each_disk_has_a_directory_of_its_own(open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    inside = tmp_path / "data" / "disk" / "b"
    for places in (["a", "a"], ["a", "link"], ["a", "a/b"], ["link/b", "a"], ["data"], ["data/disk"], [str(inside)]):
        with pytest.raises(Conflict, match="directory"):
            open_store(*(tmp_path / place for place in places))
    store = open_store(tmp_path / "a")
    put(store, 1)
    store.close()
    store = open_store(tmp_path / "link")  # the same disk by another name
    check(store, 1)
    assert store.stat().disks == 1
    store.close()


def test_no_disk_at_all_is_no_server(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "a")
    put(store, 1)
    store.close()
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(Unavailable, match="cannot open"):
        open_store(tmp_path / "a")
    (tmp_path / "a").mkdir()
    with pytest.raises(Conflict, match="mounted"):
        open_store(tmp_path / "a")


def test_a_disk_whose_writes_fail_takes_only_itself_down(open_store: OpenStore, one_may_fail: TwoDisks) -> None:
    with one_may_fail.mounted() as disks:
        store = open_store(*disks, **SMALL_VOLUMES)
        try:
            _use_while_one_fails(store, one_may_fail.spoil)
        finally:
            one_may_fail.spoil(False)
            with suppress(Unavailable):  # the last checkpoint of the one that failed
                store.close()


def _use_while_one_fails(store: LocalChunkStore, fail: Callable[[bool], None]) -> None:
    stored = list(range(1, COUNT + 1))
    for fid in stored:
        put(store, fid)
    assert {disk_of(store, fid) for fid in stored} == {1, 2}
    fail(True)
    for fid in range(1001, 1001 + 5 * COUNT):  # the other disk takes them all
        put(store, fid)
        stored.append(fid)
    assert (store.stat().state, store.stat().disks_failed) == ("rw", 1)
    for fid in range(2001, 2011):
        put(store, fid)
        assert disk_of(store, fid) == 1
    for fid in stored:
        with suppress(ChunkUnreadable, Unavailable):  # the bad disk may also refuse to be read
            check(store, fid)


def test_a_full_disk_leaves_its_share_to_the_others(open_store: OpenStore, tmp_path: Path) -> None:
    with (
        small_disk("tmpfs", 24 * MIB, tmp_path / "small") as small,
        small_disk("tmpfs", 160 * MIB, tmp_path / "large") as large,
    ):
        store = open_store(large / "chunks", small / "chunks", volume_size_first=MIB, volume_size_max=MIB)
        payload = os.urandom(MIB // 2)
        stored: list[int] = []
        with suppress(StorageFull):
            for fid in range(1, 1000):
                store.put(fid, payload, crc32c(payload))
                stored.append(fid)
        on_disks = [disk_of(store, fid) for fid in stored]
        assert on_disks.count(2) * len(payload) > 8 * MIB
        assert on_disks.count(1) * len(payload) > 120 * MIB

        further = itertools.count(fid)

        def is_full() -> bool:  # a refusal may rest on room that the engine gives back a moment later
            with suppress(StorageFull):
                store.put(next(further), payload, crc32c(payload))
            return store.stat().state == "ro_full"

        wait_until(is_full, WAIT_S, "a full store")
        store.close()


def test_one_fid_from_many_at_once_is_on_one_disk(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(*(tmp_path / name for name in ("a", "b", "c")))
    for fid in range(1, 21):
        start = threading.Barrier(6)

        def replay(fid: int = fid, start: threading.Barrier = start) -> None:
            start.wait(30)
            put(store, fid)

        threads = [threading.Thread(target=replay) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.stat().chunks == 20
    store.close()


def test_a_disk_joins_at_a_restart_and_the_first_place_stays_in_use(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store()
    for fid in range(1, 11):
        put(store, fid)
    store.close()
    store = open_store(tmp_path / "new")
    assert store.stat().disks == 2
    for fid in range(11, 61):
        put(store, fid)
    assert {disk_of(store, fid) for fid in range(11, 61)} == {0, 1}
    for fid in range(1, 61):
        check(store, fid)
    store.close()


def test_a_disk_with_somebody_elses_chunks_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    for cluster_id in (CLUSTER_ID, OTHER_CLUSTER_ID):
        path = tmp_path / cluster_id
        with Engine.open(path, engine_options(cluster_id)) as engine:
            engine.put(1, b"x", crc32c(b"x"))
        with pytest.raises((Conflict, Unavailable)):
            open_store(path).close()
        with Engine.open(path, engine_options(cluster_id)) as engine:
            assert engine.info(1).length == 1


def test_what_is_deleted_scrubbed_and_compacted_is_so_on_every_disk(open_store: OpenStore, tmp_path: Path) -> None:
    disks = [tmp_path / name for name in ("a", "b")]
    store = open_store(*disks, volume_size_first=MIB, volume_size_max=MIB, compact_below=0)
    for fid in range(1, 401):
        put(store, fid)
    for fid in range(1, 401):
        if fid % 4:
            assert store.delete(fid)
    before = {volume.id for volume in store.volumes()}
    store.start_compaction("op-1", below=1.0)
    wait_until(lambda: store.operation("op-1").state != "running", WAIT_S, "the end of op-1")
    told = store.operation("op-1")
    assert told.state == "done"
    assert told.volumes_removed > 0
    gone = before - {volume.id for volume in store.volumes()}
    assert {number // VOLUMES_PER_DISK for number in gone} == {1, 2}
    victim = store.info(400)
    file = disks[victim.volume // VOLUMES_PER_DISK - 1] / f"v{victim.volume % VOLUMES_PER_DISK:08d}.dat"
    with file.open("r+b") as volume:
        volume.seek(victim.offset + 300)
        volume.write(b"\xff\xfe")
    store.start_verify("op-2", bytes_s=0)
    wait_until(lambda: store.operation("op-2").state != "running", WAIT_S, "the end of op-2")
    told = store.operation("op-2")
    assert [(found.fid, found.volume) for found in told.damage] == [(400, victim.volume)]
    put(store, 400)  # heals it where it is
    check(store, 400)
    assert disk_of(store, 400) == victim.volume // VOLUMES_PER_DISK
    store.close()


def test_a_disk_that_hangs_holds_up_only_what_is_on_it(
    open_store: OpenStore, one_may_hang: TwoDisks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkserver.disk.HANG_S", 0.5)
    monkeypatch.setattr("chunkserver.disks.CLOSE_WAIT_S", 1.0)
    with one_may_hang.mounted() as disks:
        store = open_store(*disks, **SMALL_VOLUMES)
        for fid in range(1, COUNT + 1):
            put(store, fid)
        on_bad = [fid for fid in range(1, COUNT + 1) if disk_of(store, fid) == 2]
        on_good = [fid for fid in range(1, COUNT + 1) if disk_of(store, fid) == 1]
        one_may_hang.spoil(True)
        stuck = _put_until_some_hang(store)
        try:
            begun_s = time.monotonic()
            _use_beside_a_hanging_disk(store, on_good, on_bad)
            with pytest.raises(Unavailable, match="not closed"):
                store.close()
            assert time.monotonic() - begun_s < 8
        finally:
            one_may_hang.spoil(False)
            with suppress(Unavailable):
                store.close()
        for thread in [*stuck, *(one for one in threading.enumerate() if one.name == "close")]:
            thread.join(WAIT_S)
            assert not thread.is_alive()
    with one_may_hang.mounted() as disks:
        store = open_store(*disks, **SMALL_VOLUMES)
        for fid in range(1, 1001 + CALLS_AT_ONCE):
            if fid in (on_good[0], on_bad[0]):
                with pytest.raises(ChunkNotFound):
                    store.info(fid)
            elif fid <= COUNT or fid > 1000:
                check(store, fid)
        store.close()


def test_disks_are_closed_also_when_no_thread_is_to_be_had(open_store: OpenStore, tmp_path: Path) -> None:
    disks = [tmp_path / name for name in ("a", "b")]
    store = open_store(*disks)
    put(store, 1)
    with no_more_threads():
        store.close()
    store = open_store(*disks)  # refused while somebody has them open
    check(store, 1)
    store.close()


def test_calls_for_a_chunk_wait_no_longer_than_for_a_disk_when_one_of_them_hangs(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkserver.disks.TURN_S", 0.5)
    store = open_store(tmp_path / "a", tmp_path / "b")
    begun, go_on, put_now = threading.Event(), threading.Event(), Engine.put

    def hang(engine: Engine, fid: int, payload: Buffer, crc: int) -> None:
        begun.set()
        assert go_on.wait(WAIT_S)
        put_now(engine, fid, payload, crc)

    monkeypatch.setattr(Engine, "put", hang)
    first = threading.Thread(target=put, args=(store, 1))
    first.start()
    assert begun.wait(WAIT_S)
    with pytest.raises(Overloaded):
        put(store, 1)
    refused_s = time.monotonic()
    for _ in range(10):
        with pytest.raises(Overloaded):
            store.delete(1)
    assert time.monotonic() - refused_s < 2.0, "each of them had a thread for as long as the first"
    go_on.set()
    first.join(WAIT_S)
    check(store, 1)
    assert store.delete(1)
    store.close()


CALLS_AT_ONCE = 40


def _put_until_some_hang(store: LocalChunkStore) -> list[threading.Thread]:
    """CALLS_AT_ONCE puts at once, of which some are drawn to the disk that hangs; those that are."""

    def put_one(fid: int) -> None:
        with suppress(Unavailable):
            put(store, fid)

    threads = [threading.Thread(target=put_one, args=(1001 + number,)) for number in range(CALLS_AT_ONCE)]
    for thread in threads:
        thread.start()

    def only_calls_on_the_disk_are_left() -> bool:
        return store.stat().disks_failed == 1 and sum(thread.is_alive() for thread in threads) <= CALLS_MAX

    wait_until(only_calls_on_the_disk_are_left, WAIT_S, "an answer to all other puts")
    stuck = [thread for thread in threads if thread.is_alive()]
    assert stuck
    return stuck


def _use_beside_a_hanging_disk(store: LocalChunkStore, on_good: list[int], on_bad: list[int]) -> None:
    assert (store.stat().state, store.stat().disks_failed) == ("rw", 1)
    for fid in range(2001, 2101):
        put(store, fid)
        assert disk_of(store, fid) == 1
    for fid in on_good[1:]:
        check(store, fid)
    for fid in on_bad[1:]:
        with pytest.raises(Unavailable, match="not answered"):
            check(store, fid)
    assert store.delete(on_good[0])
    assert store.delete(on_bad[0])  # noted, to be done when the disk is opened again
    assert store.start_scrub(fresh=True).round == 1
    store.start_compaction("op-1", below=1.0)
    wait_until(lambda: store.operation("op-1").state != "running", WAIT_S, "the end of op-1")
    assert "not answer" in store.operation("op-1").trouble
    listed = {chunk.fid for chunk in store.list_chunks(0, 1000)}
    assert listed >= {*on_good[1:], *on_bad[1:]}
    assert not listed & {on_good[0], on_bad[0]}
