"""The promises of chunkserver.interface.ChunkUpkeep, held by every implementation."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from chunkserver.interface import ChunkServer, Operation
from chunkserver.memory import MemoryChunkStore
from native.checksum import crc32c
from tests.chunkserver.rooms import KINDS, store_of
from tests.wire.serving import wait_until
from wire.errors import BadRequest, Conflict, OperationNotFound, VolumeNotFound

WAIT_S = 60.0
#: each test has a range of fids of its own
SPAN_LOG2 = 12
_firsts = itertools.count(1 << SPAN_LOG2, 1 << SPAN_LOG2)


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkServer]:
    with store_of(request.param, tmp_path_factory.mktemp("chunks")) as opened:
        yield opened


@pytest.fixture
def first() -> int:
    return next(_firsts)


def put(store: ChunkServer, fid: int, length: int = 100) -> None:
    payload = random.Random(fid).randbytes(length)
    store.put(fid, payload, crc32c(payload))


def test_the_volumes_hold_what_stat_counts(store: ChunkServer, first: int) -> None:
    put(store, first, 5000)
    volumes, stat = store.volumes(), store.stat()
    assert [volume.id for volume in volumes] == sorted(volume.id for volume in volumes)
    assert sum(volume.chunks for volume in volumes) == stat.chunks
    assert sum(volume.live_bytes for volume in volumes) == stat.live_bytes
    assert sum(volume.dead_bytes for volume in volumes) == stat.dead_bytes
    assert store.info(first).volume in {volume.id for volume in volumes}


def test_the_chunks_of_a_volume_come_in_the_order_of_their_places(store: ChunkServer, first: int) -> None:
    fids = random.Random(1).sample(range(first, first + 100), 20)
    for fid in fids:
        put(store, fid, 1 + fid % 300)
    found = []
    for volume in store.volumes():
        chunks, after = [], 0
        while page := store.volume_chunks(volume.id, after, limit=6):
            assert len(page) <= 6
            chunks += page
            after = page[-1].offset
        assert [chunk.offset for chunk in chunks] == sorted({chunk.offset for chunk in chunks})
        found += [chunk for chunk in chunks if first <= chunk.fid < first + 100]
    assert sorted(chunk.fid for chunk in found) == sorted(fids)
    assert all(chunk == store.info(chunk.fid) for chunk in found)
    assert all(abs(chunk.created_s - time.time()) < 3600 for chunk in found)


def test_an_unknown_volume_is_not_found(store: ChunkServer) -> None:
    with pytest.raises(VolumeNotFound):
        store.volume_chunks(4711)


@pytest.mark.parametrize(("after", "limit"), [(0, 0), (0, 10_001), (-1, 5)])
def test_a_listing_of_a_volume_is_bounded(store: ChunkServer, after: int, limit: int) -> None:
    with pytest.raises(BadRequest):
        store.volume_chunks(1, after, limit)


def test_digests_are_those_of_any_other_store_with_the_same_chunks(store: ChunkServer, first: int) -> None:
    other = MemoryChunkStore("other")
    fids = random.Random(2).sample(range(first, first + 500), 60)
    for fid in fids:
        put(store, fid, fid % 700)
    for fid in sorted(fids):
        put(other, fid, fid % 700)
    assert store.range_digests(first, 6, 8) == other.range_digests(first, 6, 8)
    (whole,) = store.range_digests(first, SPAN_LOG2, 1)
    assert (whole.first_fid, whole.chunks) == (first, 60)
    assert whole.payload_bytes == sum(fid % 700 for fid in fids)
    store.delete(fids[0])
    pairs = zip(store.range_digests(first, 6, 8), other.range_digests(first, 6, 8), strict=True)
    assert [number for number, (one, two) in enumerate(pairs) if one.digest != two.digest] == [(fids[0] - first) >> 6]
    other.delete(fids[0])
    assert store.range_digests(first, 6, 8) == other.range_digests(first, 6, 8)


def test_a_range_without_chunks_has_the_digest_of_nothing(store: ChunkServer, first: int) -> None:
    assert {(found.chunks, found.digest) for found in store.range_digests(first, 4, 3)} == {(0, "0" * 32)}


@pytest.mark.parametrize(
    ("start", "span_log2", "count"), [(1, 1, 1), (0, 64, 1), (0, 5, 0), (0, 5, 4097), (0, 63, 3), (-2, 1, 1)]
)
def test_ranges_that_do_not_exist_are_refused(store: ChunkServer, start: int, span_log2: int, count: int) -> None:
    with pytest.raises(BadRequest):
        store.range_digests(start, span_log2, count)


def test_a_scrub_that_is_started_checks_every_chunk(store: ChunkServer, first: int) -> None:
    put(store, first, 300_000)
    before = store.scrub_status()
    told = store.start_scrub(fresh=True, bytes_s=1 << 30)
    assert told.round == before.round + 1
    wait_until(lambda: store.scrub_status().rounds == told.round, WAIT_S, "the end of the round")
    after = store.scrub_status()
    assert after.checked_chunks == store.stat().chunks
    assert after.checked_bytes == after.total_bytes > 0
    assert (after.damaged, after.known_damaged, after.damage) == (0, 0, ())
    assert after.started_s <= after.ended_s
    assert after.state in ("idle", "off")


def test_a_scrub_can_be_stopped_and_goes_on_when_it_is_started(store: ChunkServer, first: int) -> None:
    put(store, first)
    assert store.stop_scrub().state == "paused"
    assert store.stop_scrub().state == "paused"
    told = store.start_scrub(bytes_s=1 << 30)
    assert told.state != "paused"
    wait_until(lambda: store.scrub_status().rounds >= told.round, WAIT_S, "the end of the round")


@pytest.mark.parametrize("bytes_s", [0, -1])
def test_what_is_no_rate_is_refused(store: ChunkServer, bytes_s: int) -> None:
    with pytest.raises(BadRequest):
        store.start_scrub(bytes_s=bytes_s)


def ended(store: ChunkServer, operation_id: str) -> Operation:
    wait_until(lambda: store.operation(operation_id).state != "running", WAIT_S, "the end of the operation")
    return store.operation(operation_id)


def test_a_verification_checks_every_chunk_and_tells_how_it_went(store: ChunkServer, first: int) -> None:
    put(store, first, 300_000)
    begun = store.start_verify(f"verify-{first}", bytes_s=0)
    assert (begun.id, begun.kind, begun.volumes) == (f"verify-{first}", "verify", ())
    told = ended(store, begun.id)
    assert (told.state, told.trouble, told.damaged, told.damage) == ("done", "", 0, ())
    assert told.chunks == store.stat().chunks
    assert told.done_bytes == told.total_bytes > 0
    assert told.started_s <= told.ended_s
    assert store.start_verify(begun.id, bytes_s=0) == told  # nothing begins again


def test_only_the_volumes_that_are_named_are_verified(store: ChunkServer, first: int) -> None:
    put(store, first)
    volume = next(found for found in store.volumes() if found.chunks)
    told = ended(store, store.start_verify(f"verify-{first}", (volume.id,), bytes_s=1 << 40).id)
    assert (told.state, told.volumes, told.chunks) == ("done", (volume.id,), volume.chunks)


def test_a_compaction_keeps_what_is_live(store: ChunkServer, first: int) -> None:
    for fid in range(first, first + 200):
        put(store, fid, 5000)
    for fid in range(first, first + 199):
        store.delete(fid)
    before = store.stat()
    told = ended(store, store.start_compaction(f"compaction-{first}", below=1.0, bytes_s=0).id)
    assert (told.kind, told.state, told.trouble) == ("compaction", "done", "")
    assert told.volumes_removed >= told.volumes_made
    assert store.stat().chunks == before.chunks
    payload = bytearray(5000)
    store.read_into(first + 199, 0, payload)
    assert bytes(payload) == random.Random(first + 199).randbytes(5000)


def test_what_has_ended_can_be_stopped_again(store: ChunkServer, first: int) -> None:
    told = ended(store, store.start_verify(f"verify-{first}", bytes_s=0).id)
    assert store.stop_operation(told.id) == told
    with pytest.raises(Conflict):
        store.start_compaction(told.id)  # that id is taken


def test_an_operation_that_nobody_started_is_not_found(store: ChunkServer) -> None:
    with pytest.raises(OperationNotFound):
        store.operation("nobody-did")
    with pytest.raises(OperationNotFound):
        store.stop_operation("nobody-did")


@pytest.mark.parametrize("start", ["start_verify", "start_compaction"])
def test_an_operation_on_a_volume_that_is_not_there_does_not_begin(store: ChunkServer, start: str) -> None:
    with pytest.raises(VolumeNotFound, match="4711"):
        getattr(store, start)("no-volume", (4711,), bytes_s=0)
    with pytest.raises(OperationNotFound):
        store.operation("no-volume")


@pytest.mark.parametrize(
    ("operation_id", "volumes", "bytes_s"),
    [("", (), 0), ("a/b", (), 0), ("x" * 65, (), 0), ("a", (0,), 0), ("a", (1 << 32,), 0), ("a", (), -1)],
)
def test_a_malformed_operation_is_refused(
    store: ChunkServer, operation_id: str, volumes: tuple[int, ...], bytes_s: int
) -> None:
    with pytest.raises(BadRequest):
        store.start_verify(operation_id, volumes, bytes_s=bytes_s)
    with pytest.raises(BadRequest):
        store.start_compaction(operation_id, volumes, bytes_s=bytes_s)


@pytest.mark.parametrize("below", [0.0, -0.5, 1.1])
def test_what_is_no_share_is_refused(store: ChunkServer, below: float) -> None:
    with pytest.raises(BadRequest):
        store.start_compaction("a-share", below=below)
