"""The ChunkMaster may be away: what an ImageServer still does, and how it comes back."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chunkmaster.interface import FidRange, GroupTable, Member
from imageserver.core import ImageLimits, LocalImageStore
from imageserver.fids import FidKeeper, FidLimits
from imageserver.table import FILE_NAME, GroupTableCache, TableLimits
from native.checksum import crc32c
from tests.imageserver.cluster import MemoryChunkMaster, MemoryCluster, memory_cluster
from tests.imageserver.waiting import wait_until
from wire.errors import StorageFull, Unavailable

PAYLOAD = b"some layer's bytes" * 1000
QUICK = ImageLimits(table=TableLimits(refresh_s=0.02))


def put_and_read(images: LocalImageStore) -> int:
    ref = images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
    buffer = bytearray(ref.length)
    images.read_chunk_into(ref, 0, buffer)
    assert bytes(buffer) == PAYLOAD
    return ref.fid


def test_reads_and_writes_go_on_when_the_master_dies() -> None:
    cluster = memory_cluster()
    images = cluster.image_store(QUICK)
    images.start()
    try:
        wait_until(lambda: bool(cluster.master.ranges))
        cluster.master.up = False
        for _ in range(100):
            put_and_read(images)
        images.check()
    finally:
        images.close()


def test_a_restarted_image_server_reads_without_a_master_from_its_kept_table(tmp_path: Path) -> None:
    cluster = memory_cluster()
    first = cluster.image_store(QUICK, state_dir=tmp_path)
    ref = first.put_chunk(PAYLOAD, crc32c(PAYLOAD))
    first.close()
    assert (tmp_path / FILE_NAME).exists()
    cluster.master.up = False
    second = cluster.image_store(QUICK, state_dir=tmp_path)
    second.start()
    try:
        buffer = bytearray(ref.length)
        second.read_chunk_into(ref, 0, buffer)
        assert bytes(buffer) == PAYLOAD
        with pytest.raises(Unavailable, match="no fids"):
            second.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        cluster.master.up = True
        put_and_read(second)
    finally:
        second.close()


def test_a_master_whose_database_is_full_makes_the_store_full_and_not_away(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = memory_cluster()

    def reserve_fids(owner: str, count: int) -> FidRange:
        raise StorageFull("the database's disk is full")

    monkeypatch.setattr(cluster.master, "reserve_fids", reserve_fids)
    images = cluster.image_store()
    with pytest.raises(StorageFull, match="database"):
        images.check()
    with pytest.raises(StorageFull, match="database"):
        images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
    monkeypatch.undo()
    put_and_read(images)


def test_a_check_waits_for_the_first_range_that_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = memory_cluster()
    asked, go_on = threading.Event(), threading.Event()
    reserve = cluster.master.reserve_fids

    def reserve_fids(owner: str, count: int) -> FidRange:
        asked.set()
        assert go_on.wait(10.0)
        return reserve(owner, count)

    monkeypatch.setattr(cluster.master, "reserve_fids", reserve_fids)
    fids = FidKeeper(cluster.master, "host:1", time.monotonic)
    fids.start()
    try:
        assert asked.wait(5.0)
        with ThreadPoolExecutor(1) as threads:
            checked = threads.submit(fids.check)
            with pytest.raises(TimeoutError):
                checked.result(0.2)
            go_on.set()
            checked.result(5.0)
    finally:
        go_on.set()
        fids.close()


def test_without_master_and_file_nothing_is_served_and_the_reason_is_told() -> None:
    cluster = memory_cluster()
    cluster.master.up = False
    with pytest.raises(Unavailable, match="the master is down"):
        cluster.image_store().check()


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 1}', '{"format": 1, "table": {"groups": 5}}', '{"format": 9}']
)
def test_a_spoilt_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    cluster = memory_cluster()
    put_and_read(cluster.image_store(state_dir=tmp_path))


def test_without_a_master_a_newer_table_is_taken_from_a_chunk_server(tmp_path: Path) -> None:
    cluster = memory_cluster()
    first = cluster.image_store(state_dir=tmp_path)
    put_and_read(first)
    cluster.add_group()
    newer = cluster.master.group_table()
    cluster.master.up = False

    def ask_member(member: Member) -> GroupTable | None:
        if member.server_id != "g1m2":
            raise Unavailable("gone")
        return newer

    table = GroupTableCache(
        cluster.master, lambda: 0.0, state_dir=tmp_path, ask_member=ask_member, limits=TableLimits(refresh_s=0.02)
    )
    table.start()
    try:
        wait_until(lambda: len(table.current().groups) == 2)
    finally:
        table.close()


def test_an_older_table_or_one_of_another_cluster_is_not_taken_from_a_chunk_server(tmp_path: Path) -> None:
    cluster = memory_cluster()
    table = GroupTableCache(cluster.master, lambda: 0.0, state_dir=tmp_path)
    known = table.current()
    cluster.master.up = False
    for wrong in (replace(known, version=known.version - 1), replace(known, cluster_id="other", version=99), None):
        asked: list[str] = []

        def ask_member(member: Member, wrong: GroupTable | None = wrong, asked: list[str] = asked) -> GroupTable | None:
            asked.append(member.server_id)
            return wrong

        again = GroupTableCache(cluster.master, lambda: 0.0, state_dir=tmp_path, ask_member=ask_member)
        assert again.current() == known
        again.refresh()
        assert asked
        assert again.current() == known


def test_a_master_of_another_cluster_does_not_replace_the_table() -> None:
    cluster = memory_cluster()
    table = GroupTableCache(cluster.master, lambda: 0.0)
    known = table.current()
    cluster.master.cluster_id = "other"
    table.refresh(whole=True)
    assert table.current() == known


def test_a_new_group_is_used_within_seconds_without_a_restart() -> None:
    cluster = memory_cluster()
    images = cluster.image_store(QUICK)
    images.start()
    try:
        put_and_read(images)
        cluster.add_group()

        def lands_on_group_2() -> bool:
            return images.put_chunk(PAYLOAD, crc32c(PAYLOAD)).group_id == 2

        wait_until(lands_on_group_2)
    finally:
        images.close()


# -- fid ranges ----------------------------------------------------------------------------------------------------
class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_fids_are_unique_over_many_threads_and_ranges() -> None:
    master = MemoryChunkMaster()
    keeper = FidKeeper(master, "me", Clock(), FidLimits(count=50))
    keeper.start()
    taken: list[int] = []

    def take() -> None:
        taken.extend(keeper.take(5.0) for _ in range(200))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    keeper.close()
    assert len(taken) == 1600
    assert len(set(taken)) == 1600
    assert len(master.ranges) <= 1600 // 50 + 3


def test_the_next_range_is_fetched_before_the_first_one_ends_so_that_a_dead_master_is_not_felt() -> None:
    master = MemoryChunkMaster()
    keeper = FidKeeper(master, "me", Clock(), FidLimits(count=100))
    keeper.start()
    for _ in range(51):
        keeper.take(1.0)
    wait_until(lambda: len(master.ranges) == 2)
    master.up = False
    rest = [keeper.take(0.0) for _ in range(149)]
    assert rest[-1] == 200
    with pytest.raises(Unavailable):
        keeper.take(0.05)
    master.up = True
    assert keeper.take(5.0) > 200
    keeper.close()


def test_a_range_is_not_used_for_longer_than_its_lease() -> None:
    master, clock = MemoryChunkMaster(), Clock()
    keeper = FidKeeper(master, "me", clock, FidLimits(count=100, lease_s=86400.0))
    assert keeper.take(0.0) == 1
    master.up = False
    clock.now_s += 86399.0
    assert keeper.take(0.0) == 2
    clock.now_s += 1.0
    with pytest.raises(Unavailable):
        keeper.take(0.0)


def test_ranges_are_replaced_hourly_and_closed_once_their_chunks_can_have_been_recorded() -> None:
    master, clock = MemoryChunkMaster(), Clock()
    keeper = FidKeeper(master, "me", clock, FidLimits(count=100, retire_s=3600.0, linger_s=600.0))
    assert keeper.take(0.0) == 1
    clock.now_s += 3600.0
    keeper.start()
    wait_until(lambda: len(master.ranges) == 2)
    assert keeper.take(0.0) == 101
    assert master.closed == []
    keeper.close()
    assert sorted(master.closed) == [1, 2]


def test_after_the_linger_time_the_keeper_closes_a_range_by_itself() -> None:
    master, clock = MemoryChunkMaster(), Clock()
    keeper = FidKeeper(master, "me", clock, FidLimits(count=100, retire_s=3600.0, linger_s=0.0))
    keeper.take(0.0)
    clock.now_s += 3600.0
    keeper.start()
    wait_until(lambda: master.closed == [1])
    keeper.close()


def test_closing_an_image_store_retires_its_ranges_and_gives_no_more_fids() -> None:
    cluster: MemoryCluster = memory_cluster()
    images = cluster.image_store()
    put_and_read(images)
    images.close()
    assert cluster.master.closed == [1]
    with pytest.raises(Unavailable):
        images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
