"""One sick member: reads go on from another, writes land whole somewhere else."""

from __future__ import annotations

import time

import pytest

from imageserver.core import ImageLimits, LocalImageStore
from imageserver.interface import ChunkRef
from imageserver.members import PenaltyLimits
from native.checksum import crc32c
from tests.imageserver.cluster import FaultyStore, MemoryCluster, memory_cluster
from tests.imageserver.waiting import wait_until
from wire.errors import (
    ChecksumMismatch,
    ChunkDamaged,
    ChunkNotFound,
    ChunkUnreadable,
    DeadlineExceeded,
    NoGroupAvailable,
    Overloaded,
    SpeedyError,
    StorageFull,
    Unavailable,
)

PAYLOAD = bytes(range(256)) * 400


def put(images: LocalImageStore, payload: bytes = PAYLOAD) -> ChunkRef:
    return images.put_chunk(payload, crc32c(payload))


def read(images: LocalImageStore, ref: ChunkRef) -> bytes:
    buffer = bytearray(ref.length)
    images.read_chunk_into(ref, 0, buffer)
    return bytes(buffer)


def first_read(cluster: MemoryCluster, ref: ChunkRef) -> FaultyStore:
    """The member that is asked first for this chunk."""
    return cluster.group_stores(ref.group_id)[ref.fid % 3]


def make_nearly_full(cluster: MemoryCluster, group_id: int) -> None:
    """Room for one payload only: other groups with much room are drawn before this one."""
    for member in cluster.master.groups[group_id].members:
        cluster.master.set_state(member.server_id, "rw", free_bytes=len(PAYLOAD))


@pytest.mark.parametrize("fault", ["dead", "hanging", "wrong bytes", "not found", "damaged", "busy", "short"])
def test_a_read_fails_over_from_a_member_that_is(fault: str) -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    ref = put(images)
    sick = first_read(cluster, ref)
    if fault == "dead":
        sick.kill()
    elif fault == "hanging":
        sick.hang_s = 0.05
    elif fault == "wrong bytes":
        sick.flip = True
    elif fault == "not found":
        sick.inner.delete(ref.fid)
    elif fault == "damaged":
        sick.read_error = ChunkUnreadable("block 3 is damaged")
    elif fault == "busy":
        sick.read_error = Overloaded("too many readers")
    else:
        sick.inner.delete(ref.fid)
        sick.inner.put(ref.fid, PAYLOAD[:-1], crc32c(PAYLOAD[:-1]))
    assert read(images, ref) == PAYLOAD
    assert sick.reads == 1
    counted = images.counters.values()
    assert counted["read_failovers"] == 1
    assert counted["bad_copies"] == (1 if fault in ("wrong bytes", "damaged", "short") else 0)


def test_a_member_that_failed_is_asked_last_for_a_while_and_first_again_later() -> None:
    now_s = [100.0]
    cluster = memory_cluster()
    images = cluster.image_store(ImageLimits(penalty=PenaltyLimits(first_s=2.0, max_s=30.0)), clock=lambda: now_s[0])
    ref = put(images)
    sick = first_read(cluster, ref)
    sick.kill()
    assert read(images, ref) == PAYLOAD
    sick.revive()
    assert read(images, ref) == PAYLOAD
    assert sick.reads == 1
    now_s[0] += 2.1
    assert read(images, ref) == PAYLOAD
    assert sick.reads == 2


def test_reads_of_many_chunks_spread_over_all_members() -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    for _ in range(30):
        read(images, put(images, b"x"))
    assert [store.reads for store in cluster.group_stores(1)] == [10, 10, 10]


def test_a_chunk_that_no_member_has_is_not_found_after_one_more_look_at_the_table() -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    ref = put(images)
    for store in cluster.group_stores(1):
        store.inner.delete(ref.fid)
    tables_before = cluster.master.tables_given
    with pytest.raises(ChunkNotFound):
        read(images, ref)
    assert cluster.master.tables_given == tables_before + 1
    assert [store.reads for store in cluster.group_stores(1)] == [2, 2, 2]


def test_a_chunk_is_not_called_missing_while_a_member_does_not_answer() -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    ref = put(images)
    stores = cluster.group_stores(1)
    for store in stores:
        store.inner.delete(ref.fid)
    stores[1].kill()
    with pytest.raises(ChunkUnreadable) as caught:
        read(images, ref)
    assert not isinstance(caught.value, ChunkDamaged)


def test_a_chunk_with_only_damaged_and_missing_copies_is_damaged_and_gives_no_bytes_as_good() -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    ref = put(images)
    stores = cluster.group_stores(1)
    for store in stores:
        store.flip = True
    with pytest.raises(ChunkDamaged):
        read(images, ref)
    assert images.counters.values()["bad_copies"] == 3
    stores[0].inner.delete(ref.fid)
    with pytest.raises(ChunkDamaged):
        read(images, ref)
    stores[1].kill()  # it may have a good one, for all that anybody can say
    with pytest.raises(ChunkUnreadable) as caught:
        read(images, ref)
    assert not isinstance(caught.value, ChunkDamaged)


def test_a_chunk_of_a_group_that_came_after_the_last_look_at_the_table_is_read() -> None:
    cluster = memory_cluster()
    reader = cluster.image_store()
    put(reader)
    cluster.add_group()
    for server_id in ("g1m1", "g1m2", "g1m3"):
        cluster.master.set_state(server_id, "down")
    ref = put(cluster.image_store())
    assert ref.group_id == 2
    assert read(reader, ref) == PAYLOAD


@pytest.mark.parametrize(
    "error", [Unavailable("gone"), DeadlineExceeded("slow"), StorageFull("full"), Overloaded("busy")]
)
def test_a_failing_replica_burns_the_fid_and_the_chunk_lands_whole_on_another_group(error: SpeedyError) -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store()
    cluster.stores["g1m2"].put_error = error
    make_nearly_full(cluster, 2)
    refs = [put(images) for _ in range(10)]
    assert {ref.group_id for ref in refs} == {2}
    for ref in refs:
        assert cluster.copies(ref.fid) == ["g2m1", "g2m2", "g2m3"]
    burned = images.counters.values()["fids_burned"]
    assert burned >= 1
    assert len({ref.fid for ref in refs}) == 10
    # what reached the other members of group 1 is taken back, so that only acknowledged fids are left
    wait_until(lambda: cluster.all_fids() == {ref.fid for ref in refs})


def test_a_hanging_replica_delays_a_write_only_for_its_time_out() -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store(ImageLimits(write_timeout_s=0.2))
    hanging = cluster.stores["g1m3"]
    hanging.hang_s = 0.3
    make_nearly_full(cluster, 2)
    began_s = time.monotonic()
    ref = put(images)
    assert time.monotonic() - began_s < 2.0
    assert ref.group_id == 2
    assert cluster.copies(ref.fid) == ["g2m1", "g2m2", "g2m3"]


def test_the_payload_is_the_callers_again_only_when_no_replica_uses_it_any_more() -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store(ImageLimits(write_timeout_s=0.1))
    using = []

    def slow(fid: int) -> None:
        using.append(fid)
        time.sleep(0.18)  # longer than its time, shorter than twice that
        using.remove(fid)

    cluster.stores["g1m1"].before_put = slow
    cluster.stores["g2m1"].before_put = slow
    with pytest.raises(NoGroupAvailable):
        put(images)
    assert using == []


def test_after_a_failure_the_group_is_avoided_while_another_one_is_whole() -> None:
    now_s = [0.0]
    cluster = memory_cluster(groups=2)
    images = cluster.image_store(clock=lambda: now_s[0])
    cluster.stores["g1m1"].put_error = Unavailable("gone")
    while images.counters.values()["fids_burned"] == 0:
        put(images)
    puts_before = cluster.stores["g1m1"].puts
    for _ in range(30):
        assert put(images).group_id == 2
    assert cluster.stores["g1m1"].puts == puts_before


def test_without_a_whole_group_a_write_names_what_is_missing() -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store()
    cluster.master.set_state("g1m1", "down")
    cluster.master.set_state("g2m1", "failed")
    with pytest.raises(NoGroupAvailable, match="2 groups 2 have a member"):
        put(images)
    with pytest.raises(NoGroupAvailable):
        images.check()


def test_storage_is_full_only_when_every_group_is_full() -> None:
    cluster = memory_cluster(groups=2)
    cluster.master.set_state("g1m1", "ro_full", free_bytes=0)
    cluster.master.set_state("g2m1", "down")
    with pytest.raises(NoGroupAvailable):
        put(cluster.image_store())
    cluster.master.set_state("g2m1", "ro_full", free_bytes=0)
    with pytest.raises(StorageFull):
        put(cluster.image_store())


def test_full_answers_of_all_groups_come_out_as_storage_full() -> None:
    cluster = memory_cluster(groups=2)
    for store in cluster.stores.values():
        store.put_error = StorageFull("no space")
    with pytest.raises(StorageFull):
        put(cluster.image_store())


def test_busy_groups_are_tried_again_until_they_have_time() -> None:
    cluster = memory_cluster()
    images = cluster.image_store()
    sick = cluster.stores["g1m1"]

    def busy_twice(_: int) -> None:
        if sick.puts <= 2:
            raise Overloaded("busy")

    sick.before_put = busy_twice
    ref = put(images)
    assert len(cluster.copies(ref.fid)) == 3
    assert images.counters.values()["fids_burned"] == 2


def test_groups_that_stay_busy_answer_overloaded_within_the_deadline() -> None:
    cluster = memory_cluster()
    images = cluster.image_store(ImageLimits(put_deadline_s=0.5))
    cluster.stores["g1m1"].put_error = Overloaded("busy")
    with pytest.raises((Overloaded, DeadlineExceeded)):
        put(images)


def test_a_payload_that_does_not_match_its_checksum_is_the_callers_fault_and_touches_no_other_group() -> None:
    cluster = memory_cluster(groups=3)
    images = cluster.image_store()
    with pytest.raises(ChecksumMismatch):
        images.put_chunk(PAYLOAD, crc32c(PAYLOAD) ^ 1)
    assert sum(store.puts for store in cluster.stores.values()) == 3
    assert cluster.all_fids() == set()


def test_a_replica_that_sees_a_good_payload_as_damaged_is_treated_as_failed() -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store()
    cluster.stores["g1m1"].put_error = ChecksumMismatch("damaged on the way")
    assert {put(images).group_id for _ in range(10)} == {2}


def test_a_fid_that_holds_other_bytes_is_left_alone_and_its_range_is_given_up() -> None:
    cluster = memory_cluster()
    other = b"somebody else's bytes"
    for store in cluster.group_stores(1):
        store.inner.put(1, other, crc32c(other))
    images = cluster.image_store()
    with pytest.raises(NoGroupAvailable):
        put(images)
    ref = put(images)
    assert ref.fid > cluster.master.ranges[0].last
    buffer = bytearray(len(other))
    for store in cluster.group_stores(1):
        store.inner.read_into(1, 0, buffer)
        assert bytes(buffer) == other


def test_what_lies_under_a_fid_that_is_in_use_is_kept_even_where_the_bytes_are_the_same() -> None:
    cluster = memory_cluster()
    first, second, third = cluster.group_stores(1)
    for store in (first, second):
        store.inner.put(1, PAYLOAD, crc32c(PAYLOAD))  # there the write looks like a replay, and succeeds
    third.inner.put(1, b"other", crc32c(b"other"))
    images = cluster.image_store(ImageLimits(threads_max=1))  # copies are taken back one after the other
    with pytest.raises(NoGroupAvailable):
        put(images)
    third.put_error = Unavailable("gone")
    with pytest.raises(NoGroupAvailable):
        put(images)
    wait_until(lambda: cluster.all_fids() == {1})  # the second write's copies are, so the first one's would be
    assert len(cluster.copies(1)) == 3


def test_deletes_reach_every_member_and_tell_what_is_left() -> None:
    cluster = memory_cluster(groups=2)
    images = cluster.image_store()
    refs = [put(images) for _ in range(12)]
    assert {ref.group_id for ref in refs} == {1, 2}
    cluster.stores["g2m3"].kill()
    left = images.delete_chunks(refs)
    assert set(left) == {ref for ref in refs if ref.group_id == 2}
    cluster.stores["g2m3"].revive()
    assert images.delete_chunks(left) == []
    assert cluster.all_fids() == set()
    assert images.delete_chunks(refs) == []
    unknown = ChunkRef(5, 99, 1, 0)
    assert images.delete_chunks([unknown]) == [unknown]
