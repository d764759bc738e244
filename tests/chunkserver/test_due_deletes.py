"""Chunks that were deleted while their disk was away or failed never come back with it."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from chunkserver.due_deletes import DueDeletes
from native.checksum import crc32c
from native.engine import Engine
from native.errors import DiskFull, StoreFailed
from native.values import Buffer
from tests import needs
from tests.chunkserver.rooms import SMALL_VOLUMES, OpenStore, check, disk_of, put
from tests.disks import TwoDisks, run
from wire.errors import ChunkConflict, ChunkNotFound, Unavailable

COUNT = 60


def test_a_disk_out_of_the_setting_comes_back_without_what_was_deleted(open_store: OpenStore, tmp_path: Path) -> None:
    disks = [tmp_path / name for name in ("a", "b")]
    store = open_store(*disks)
    for fid in range(1, COUNT + 1):
        put(store, fid)
    on_first = [fid for fid in range(1, COUNT + 1) if disk_of(store, fid) == 1]
    store.close()
    store = open_store(disks[1])
    assert (store.stat().disks, store.stat().disks_failed) == (1, 0)
    with pytest.raises(ChunkNotFound):  # who takes a disk out says that it is gone
        store.info(on_first[0])
    put(store, on_first[1])  # as repair does
    for fid in on_first[:2]:
        store.delete(fid)
    store.close()
    record = tmp_path / "data" / "disk-1.deleted"
    record.write_bytes(record.read_bytes() + struct.pack("<QI", on_first[2], 0) + b"cut")
    store = open_store(*disks)
    for fid in on_first[:2]:
        with pytest.raises(ChunkNotFound):
            store.info(fid)
    for fid in on_first[2:]:
        check(store, fid)
    assert not record.exists()
    store.close()


def test_that_deletes_were_done_is_durable_before_a_chunk_is_put(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks = [tmp_path / name for name in ("a", "b")]
    store = open_store(*disks)
    store.close()
    store = open_store(disks[1])
    store.delete(1)
    store.close()
    record = tmp_path / "data" / "disk-1.deleted"
    assert record.exists()
    synced: list[bool] = []

    def noted(file: int) -> None:
        if os.path.samestat(os.fstat(file), record.parent.stat()):
            synced.append(record.exists())
        fsync(file)

    fsync = os.fsync
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", noted)
        store = open_store(*disks)
    store.close()
    assert False in synced  # the directory without the record, which would delete what is put from now on


def test_a_note_counts_only_when_the_directory_has_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    due = DueDeletes(tmp_path, 1)
    synced: list[int] = []
    fsync = os.fsync

    def full_once(file: int) -> None:
        synced.append(file)
        if len(synced) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full_once)
    with pytest.raises(DiskFull):
        due.note(1)
    due.note(2)
    assert len(synced) == 2
    due.close()


def test_nothing_comes_back_with_a_disk_that_failed(open_store: OpenStore, one_may_fail: TwoDisks) -> None:
    with one_may_fail.mounted() as disks:
        store = open_store(*disks, **SMALL_VOLUMES)
        for fid in range(1, COUNT + 1):
            put(store, fid)
        try:
            there = _delete_while_one_fails(store, one_may_fail.spoil)
        finally:
            one_may_fail.spoil(False)
            with suppress(Unavailable):
                store.close()
    run(needs.program("e2fsck", "e2fsprogs"), "-f", "-p", one_may_fail.device, statuses=(0, 1))
    with one_may_fail.mounted() as disks:
        store = open_store(*disks, **SMALL_VOLUMES)
        assert [chunk.fid for chunk in store.list_chunks(0, 1000)] == there
        for fid in there:
            check(store, fid)
        store.close()


def _delete_while_one_fails(store: LocalChunkStore, fail: Callable[[bool], None]) -> list[int]:
    """The chunks that are there in the end."""
    on_bad = [fid for fid in range(1, COUNT + 1) if disk_of(store, fid) == 2]
    fid = COUNT
    fail(True)
    while store.stat().disks_failed == 0:
        put(store, fid := fid + 1)
    deleted, replayed = on_bad[0], on_bad[1]
    assert store.delete(deleted)
    assert not store.delete(deleted)
    with pytest.raises(ChunkNotFound):
        check(store, deleted)
    assert store.delete(on_bad[2])
    put(store, on_bad[2])  # is a new chunk, on the other disk
    assert disk_of(store, on_bad[2]) == 1
    put(store, replayed)
    with pytest.raises(ChunkConflict):
        store.put(replayed, b"other", crc32c(b"other"))
    there = [chunk.fid for chunk in store.list_chunks(0, 1000)]
    assert there == [one for one in range(1, fid + 1) if one != deleted]
    assert store.list_chunks(deleted - 1, 1)[0].fid == deleted + 1
    return there


@pytest.fixture
def late_puts(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Puts of these fids fail once, and the disk has their bytes all the same when it is opened again."""
    fids: set[int] = set()
    late: list[tuple[Engine, int, bytes, int]] = []
    put_now, close_now = Engine.put, Engine.close

    def put_late(engine: Engine, fid: int, payload: Buffer, crc: int) -> None:
        if fid not in fids:
            return put_now(engine, fid, payload, crc)
        fids.remove(fid)
        late.append((engine, fid, bytes(payload), crc))
        raise StoreFailed("sync failed")

    def close(engine: Engine) -> None:
        while mine := [one for one in late if one[0] is engine]:
            late.remove(mine[0])
            put_now(*mine[0])
        close_now(engine)

    monkeypatch.setattr(Engine, "put", put_late)
    monkeypatch.setattr(Engine, "close", close)
    return fids


def test_a_put_that_failed_never_holds_beside_what_was_acknowledged_or_deleted_later(
    open_store: OpenStore, tmp_path: Path, late_puts: set[int]
) -> None:
    store = open_store(tmp_path / "a")
    late_puts |= {1, 2}
    for fid in (1, 2):
        with pytest.raises(Unavailable):
            store.put(fid, b"first", crc32c(b"first"))
        with pytest.raises(Unavailable):  # the disk may have other bytes, and there is no other disk
            put(store, fid)
    assert not store.delete(1)
    store.close()
    store = open_store(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ChunkNotFound):
        store.info(1)
    assert store.info(2).length == len(b"first")  # nobody was told anything else
    late_puts |= set(range(3, 23))
    for fid in range(3, 23):
        put(store, fid)  # on the other disk
        with pytest.raises(ChunkConflict):
            store.put(fid, b"other", crc32c(b"other"))
    for fid in range(3, 13):
        assert store.delete(fid)
    store.close()
    store = open_store(tmp_path / "a", tmp_path / "b")
    assert [chunk.fid for chunk in store.list_chunks(0, 1000)] == [2, *range(13, 23)]
    assert store.stat().chunks == 11  # one copy of each
    for fid in range(13, 23):
        check(store, fid)
    store.close()
