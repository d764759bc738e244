"""Operations of a ChunkServer: one at a time, at a rate, stopped when they are told to or nobody asks any more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from chunkserver.interface import Operation
from chunkserver.operations import UNWATCHED_S, Operations
from chunkserver.scrubbing import ScrubLimits
from native.checksum import crc32c
from tests.chunkserver.rooms import MIB, engine_options
from tests.chunkserver.test_data_directory import flip_a_byte_of
from tests.wire.serving import wait_until
from wire.errors import BadRequest, Conflict, OperationNotFound, Unavailable

WAIT_S = 60.0
#: a second step waits for minutes
SLOW = 10_000
RESTING = ScrubLimits(first_after_s=1e6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalChunkStore]:
    opened = LocalChunkStore.open(tmp_path / "data", engine_options(), server_id="cs-1", scrub=RESTING)
    yield opened
    opened.close()


def put(store: LocalChunkStore, fid: int, length: int = 2 * MIB) -> bytes:
    payload = os.urandom(length)
    store.put(fid, payload, crc32c(payload))
    return payload


def running(store: LocalChunkStore) -> Operation:
    """A verification that has begun and does not end."""
    for fid in range(1, 6):
        put(store, fid)
    begun = store.start_verify("slow", bytes_s=SLOW)
    wait_until(lambda: store.operation("slow").chunks > 0, WAIT_S, "the first chunk")
    return begun


def test_one_that_is_told_to_stop_ends_at_once_and_tells_how_far_it_was(store: LocalChunkStore) -> None:
    assert running(store).state == "running"
    told = store.stop_operation("slow")
    assert (told.state, told.trouble) == ("stopped", "")
    assert 0 < told.chunks < 5
    assert 0 < told.done_bytes < told.total_bytes
    assert store.operation("slow") == told


def test_while_one_runs_another_is_refused_and_tells_which_it_is(store: LocalChunkStore) -> None:
    running(store)
    assert store.start_verify("slow", bytes_s=SLOW).state == "running"  # a repetition is none
    with pytest.raises(Conflict, match=r"verify is under way .slow"):
        store.start_verify("another", bytes_s=0)
    with pytest.raises(Conflict, match=r"verify is under way"):
        store.start_compaction("another")
    with pytest.raises(Conflict, match="is a verify"):
        store.start_compaction("slow")
    store.stop_operation("slow")
    wait_until(lambda: store.start_verify("another", bytes_s=0).state == "done", WAIT_S, "the next one")
    with pytest.raises(OperationNotFound, match="restarted, or others came after"):
        store.operation("slow")


def test_one_that_nobody_asks_for_is_stopped(store: LocalChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(store, "_operations", Operations(lambda: now_s[0]))
    for fid in range(1, 6):
        put(store, fid)
    store.start_verify("left", bytes_s=SLOW)
    for _ in range(3):
        now_s[0] += 0.9 * UNWATCHED_S
        assert store.operation("left").state == "running"  # asking keeps it
    now_s[0] += UNWATCHED_S
    wait_until(lambda: "operation" not in {thread.name for thread in threading.enumerate()}, WAIT_S, "its end")
    assert store.operation("left").state == "stopped"


def test_damage_is_told_by_chunk_and_known_to_the_scrub(store: LocalChunkStore, tmp_path: Path) -> None:
    payloads = {fid: put(store, fid, 50_000) for fid in range(1, 9)}
    for fid in (3, 7):
        flip_a_byte_of(payloads[fid], tmp_path / "data")
    store.start_verify("look", bytes_s=0)
    wait_until(lambda: store.operation("look").state == "done", WAIT_S, "the end")
    told = store.operation("look")
    assert (told.chunks, told.damaged, sorted(found.fid for found in told.damage)) == (8, 2, [3, 7])
    assert store.scrub_status().known_damaged == store.stat().damaged == 2
    store.put(3, payloads[3], crc32c(payloads[3]))
    assert [found.fid for found in store.scrub_status().damage] == [7]


def test_a_compaction_gives_space_back_and_keeps_to_named_volumes(store: LocalChunkStore, tmp_path: Path) -> None:
    payloads = {fid: put(store, fid, 30_000) for fid in range(1, 1500)}
    for fid in payloads:
        if fid % 10:
            store.delete(fid)
    volumes = [volume.id for volume in store.volumes() if volume.chunks]
    assert len(volumes) > 1
    before = sum(path.stat().st_blocks for path in (tmp_path / "data" / "disk").iterdir())
    store.start_compaction("one", (volumes[0],), bytes_s=0)
    wait_until(lambda: store.operation("one").state == "done", WAIT_S, "the first compaction")
    told = store.operation("one")
    assert (told.volumes_removed, told.volumes_left) == (1, ())
    there = {volume.id for volume in store.volumes()}
    assert set(volumes) - there == {volumes[0]}
    store.start_compaction("rest", below=0.99, bytes_s=0)
    wait_until(lambda: store.operation("rest").state == "done", WAIT_S, "the second compaction")
    assert store.operation("rest").volumes_removed >= len(volumes) - 1
    assert store.operation("rest").given_back_bytes > 0
    assert sum(path.stat().st_blocks for path in (tmp_path / "data" / "disk").iterdir()) < before
    for fid in range(10, 1500, 10):
        found = bytearray(30_000)
        store.read_into(fid, 0, found)
        assert found == payloads[fid]


def test_a_compaction_can_be_stopped(store: LocalChunkStore) -> None:
    for fid in range(1, 1500):
        put(store, fid, 30_000)
    for fid in range(2, 1500, 2):
        store.delete(fid)
    store.start_compaction("slow", below=1.0, bytes_s=100_000)
    wait_until(lambda: store.operation("slow").done_bytes > 0, WAIT_S, "the first bytes")
    told = store.stop_operation("slow")
    assert told.state == "stopped"
    assert store.stat().chunks == 750


def test_a_store_that_is_closed_ends_its_operation_first(store: LocalChunkStore) -> None:
    running(store)
    began_s = time.monotonic()
    store.close()
    assert time.monotonic() - began_s < WAIT_S  # and not when the rate lets it
    assert store.operation("slow").state == "stopped"
    with pytest.raises(Unavailable):
        store.start_verify("late", bytes_s=0)


def test_without_a_rate_of_the_scrub_one_has_to_be_said(tmp_path: Path) -> None:
    store = LocalChunkStore.open(tmp_path / "data", engine_options(), scrub=ScrubLimits(bytes_s=0))
    with pytest.raises(BadRequest, match="scrub_bytes_s"):
        store.start_verify("any")
    store.start_verify("any", bytes_s=0)
    store.close()
