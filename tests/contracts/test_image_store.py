"""The promises of ImageStore (imageserver/interface.py), held by LocalImageStore and HttpImageStore over it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from chunkserver.interface import CHUNK_BYTES_MAX
from imageserver.interface import ChunkRef, ImageStore
from native.checksum import crc32c
from tests.imageserver.cluster import MemoryCluster, memory_cluster
from tests.imageserver.http import served
from wire.errors import (
    ChecksumMismatch,
    ChunkDamaged,
    ChunkNotFound,
    ChunkUnreadable,
    NoGroupAvailable,
    PayloadTooLarge,
    RangeNotSatisfiable,
    StorageFull,
    Unavailable,
)


@dataclass
class Setup:
    cluster: MemoryCluster
    images: ImageStore


@pytest.fixture(params=["local-3-replicas", "local-1-replica", "http"])
def setup(request: pytest.FixtureRequest) -> Iterator[Setup]:
    cluster = memory_cluster(groups=2, replicas=1 if request.param == "local-1-replica" else 3)
    local = cluster.image_store()
    if request.param == "http":
        with served(local) as remote:
            yield Setup(cluster, remote)
    else:
        yield Setup(cluster, local)
    local.close()


def payload_of(length: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(length)


def put(images: ImageStore, payload: bytes) -> ChunkRef:
    return images.put_chunk(payload, crc32c(payload))


@pytest.mark.parametrize("length", [0, 1, 4096, 65536, 262144, 262145, 5_000_000])
def test_a_chunk_is_on_every_member_of_one_group_and_reads_back(setup: Setup, length: int) -> None:
    payload = payload_of(length)
    ref = put(setup.images, payload)
    assert ref.length == length
    assert ref.crc32c == crc32c(payload)
    assert setup.cluster.copies(ref.fid) == [m.server_id for m in setup.cluster.master.groups[ref.group_id].members]
    buffer = bytearray(length)
    assert setup.images.read_chunk_into(ref, 0, buffer) == ref.crc32c
    assert bytes(buffer) == payload


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payloads_of_every_kind_are_taken(setup: Setup, kind: type) -> None:
    payload = payload_of(1000)
    ref = setup.images.put_chunk(kind(payload), crc32c(payload))
    buffer = memoryview(bytearray(1000))
    setup.images.read_chunk_into(ref, 0, buffer)
    assert bytes(buffer) == payload


def test_any_part_of_a_chunk_can_be_read(setup: Setup) -> None:
    payload = payload_of(300_000)
    ref = put(setup.images, payload)
    for offset, length in [(0, 1), (1, 299_999), (299_999, 1), (150_000, 20), (0, 262_144), (300_000, 0), (5, 0)]:
        buffer = bytearray(length)
        assert setup.images.read_chunk_into(ref, offset, buffer) == crc32c(payload[offset : offset + length])
        assert bytes(buffer) == payload[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (100, 1), (101, 0), (-1, 1), (50, 51)])
def test_a_range_beyond_the_chunk_is_refused(setup: Setup, offset: int, length: int) -> None:
    ref = put(setup.images, payload_of(100))
    with pytest.raises(RangeNotSatisfiable):
        setup.images.read_chunk_into(ref, offset, bytearray(length))


def test_storing_the_same_bytes_again_takes_another_fid(setup: Setup) -> None:
    first, second = put(setup.images, b"same"), put(setup.images, b"same")
    assert first.fid != second.fid


def test_a_wrong_checksum_is_refused_and_leaves_no_copy(setup: Setup) -> None:
    with pytest.raises(ChecksumMismatch):
        setup.images.put_chunk(b"payload", crc32c(b"payload") ^ 0x80)
    assert setup.cluster.all_fids() == set()


def test_a_chunk_that_is_too_large_is_refused(setup: Setup) -> None:
    with pytest.raises(PayloadTooLarge):
        setup.images.put_chunk(bytes(CHUNK_BYTES_MAX + 1), 0)


def test_a_chunk_that_no_member_has_is_not_found(setup: Setup) -> None:
    ref = put(setup.images, b"payload")
    for store in setup.cluster.stores.values():
        store.inner.delete(ref.fid)
    with pytest.raises(ChunkNotFound):
        setup.images.read_chunk_into(ref, 0, bytearray(ref.length))


def test_a_chunk_without_a_good_copy_is_damaged(setup: Setup) -> None:
    ref = put(setup.images, b"payload")
    for store in setup.cluster.stores.values():
        store.flip = True
    with pytest.raises(ChunkDamaged):
        setup.images.read_chunk_into(ref, 0, bytearray(ref.length))


def test_a_chunk_of_an_unknown_group_is_unreadable_not_missing(setup: Setup) -> None:
    with pytest.raises(ChunkUnreadable):
        setup.images.read_chunk_into(ChunkRef(1, 77, 5, 0), 0, bytearray(5))


def test_wrong_references_never_give_bytes(setup: Setup) -> None:
    ref = put(setup.images, b"payload")
    wrong = ChunkRef(ref.fid, ref.group_id, ref.length, ref.crc32c ^ 1)
    with pytest.raises(ChunkUnreadable):
        setup.images.read_chunk_into(wrong, 0, bytearray(ref.length))


def test_full_groups_are_told_as_full(setup: Setup) -> None:
    for store in setup.cluster.stores.values():
        store.put_error = StorageFull("no space left")
    with pytest.raises(StorageFull):
        put(setup.images, b"payload")


def test_groups_that_do_not_answer_are_told_as_no_group(setup: Setup) -> None:
    for store in setup.cluster.stores.values():
        store.put_error = Unavailable("connection refused")
    with pytest.raises(NoGroupAvailable):
        put(setup.images, b"payload")


def test_deleted_chunks_are_gone_everywhere_and_deleting_again_is_harmless(setup: Setup) -> None:
    refs = [put(setup.images, payload_of(100, seed)) for seed in range(20)]
    assert setup.images.delete_chunks(refs[:15]) == []
    assert setup.cluster.all_fids() == {ref.fid for ref in refs[15:]}
    assert setup.images.delete_chunks(refs[:15]) == []
    assert setup.images.delete_chunks([]) == []


def test_chunks_that_cannot_be_deleted_everywhere_are_told(setup: Setup) -> None:
    refs = [put(setup.images, payload_of(100, seed)) for seed in range(20)]
    store = setup.cluster.stores["g1m1"]
    store.kill()
    left = setup.images.delete_chunks(refs)
    assert left == [ref for ref in refs if ref.group_id == 1]
    assert left
    store.revive()
    assert setup.images.delete_chunks(left) == []


def test_check_tells_what_stands_in_the_way_of_writing(setup: Setup) -> None:
    setup.images.check()
    for group in setup.cluster.master.groups.values():
        setup.cluster.master.set_state(group.members[0].server_id, "down")
    with pytest.raises(ChunkNotFound):  # has the table looked at again
        setup.images.read_chunk_into(ChunkRef(9, 1, 1, 0), 0, bytearray(1))
    with pytest.raises(NoGroupAvailable):
        setup.images.check()


def test_many_threads_store_and_read_at_once(setup: Setup) -> None:
    errors: list[BaseException] = []
    refs: list[ChunkRef] = []

    def work(seed: int) -> None:
        try:
            for index in range(5):
                payload = payload_of(50_000 + index, seed * 100 + index)
                ref = put(setup.images, payload)
                buffer = bytearray(ref.length)
                setup.images.read_chunk_into(ref, 0, buffer)
                assert bytes(buffer) == payload
                refs.append(ref)
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0]
    assert len({ref.fid for ref in refs}) == 60
