"""The engine on a real ext4 that fails: filled to its last block, and over a device whose writes answer EIO."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from native.checksum import crc32c
from native.engine import Engine, EngineOptions
from native.errors import ChunkCorrupt, ChunkNotFound, DiskFull, StoreFailed
from tests import needs
from tests.disks import failing_device, mounted, run
from tests.wire.serving import wait_until

from . import oracle
from .conftest import CLUSTER_ID, MIB

FULL_BYTES = 24 * MIB
DEVICE_BYTES = 64 * MIB
WAIT_S = 60.0
PUTS_MAX = 100_000
OPTIONS = EngineOptions(
    cluster_id=CLUSTER_ID, volume_size_first=MIB, volume_size_max=4 * MIB, reserve_bytes=0, compact_below=0
)


def payload_of(fid: int) -> bytes:
    return hashlib.shake_128(fid.to_bytes(8, "little")).digest(100 + fid * 7919 % 100_000)


def put(engine: Engine, fid: int) -> None:
    engine.put(fid, payload_of(fid), crc32c(payload_of(fid)))


def get(engine: Engine, fid: int) -> bytes:
    buffer = bytearray(engine.info(fid).length)
    engine.read_into(fid, 0, buffer)
    return bytes(buffer)


def put_until(engine: Engine, first_fid: int, error: type[Exception]) -> list[int]:
    """Fids that were acknowledged before the first refusal, which must come."""
    stored: list[int] = []
    for fid in range(first_fid, first_fid + PUTS_MAX):
        try:
            put(engine, fid)
        except error:
            return stored
        stored.append(fid)
    raise AssertionError("nothing was refused")


def check_oracle(directory: Path, stored: list[int]) -> None:
    live = oracle.read_store(directory).live
    assert all(live[fid][1].payload == payload_of(fid) for fid in stored)


@contextmanager
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 of FULL_BYTES, none of them kept back for root, with an empty directory `store`."""
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, FULL_BYTES)
    run(needs.program("mkfs.ext4", "e2fsprogs"), "-q", "-m", "0", image)
    with mounted(image, tmp_path / "disk") as disk:
        (disk / "store").mkdir()
        yield disk


def test_an_ext4_filled_to_its_last_block_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        store = disk / "store"
        engine = Engine.open(store, OPTIONS)
        ballast = os.open(disk / "ballast", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(ballast, 0, 6 * MIB)
        stored = put_until(engine, 1, DiskFull)
        assert sum(len(payload_of(fid)) for fid in stored) > FULL_BYTES // 3
        fill(ballast)
        os.close(ballast)
        assert all(get(engine, fid) == payload_of(fid) for fid in stored)
        stored += put_until(engine, 200_000, DiskFull)  # into what its volumes still have
        with suppress(DiskFull):  # no room for a checkpoint: the next opening scans instead
            engine.checkpoint()
        with suppress(DiskFull):
            engine.close()
        check_oracle(store, stored)
        engine = Engine.open(store, OPTIONS)
        assert all(get(engine, fid) == payload_of(fid) for fid in stored)
        (disk / "ballast").unlink()
        # The journal gives it back with its next commit.
        wait_until(lambda: os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > MIB, WAIT_S, "space")
        for fid in stored[::2]:
            assert engine.delete(fid)
        engine.checkpoint()
        engine.compact(below=1.0)
        put(engine, 300_000)
        engine.close()
        check_oracle(store, [*stored[1::2], 300_000])
        assert not set(stored[::2]) & oracle.read_store(store).live.keys()


def fill(ballast: int) -> None:
    """Somebody else takes what is left, down to the last block; also what the journal gives back only now."""

    def is_full() -> bool:
        os.lseek(ballast, 0, os.SEEK_END)
        for length in (MIB, 4096, 1):
            with suppress(OSError):
                while os.write(ballast, b"x" * length):
                    pass
        os.fsync(ballast)
        return os.fstatvfs(ballast).f_bavail == 0

    wait_until(is_full, WAIT_S, "a full disk")


@pytest.mark.parametrize(("length", "count"), [(50_000, 200), (700, 1500)])
def test_without_a_free_block_every_chunk_can_be_deleted_and_the_space_returns(
    tmp_path: Path, length: int, count: int
) -> None:
    payload = os.urandom(length)
    with small_disk(tmp_path) as disk:
        store = disk / "store"
        engine = Engine.open(store, OPTIONS)
        ballast = os.open(disk / "ballast", os.O_RDWR | os.O_CREAT)
        engine.put_many([(fid, payload, crc32c(payload)) for fid in range(1, count + 1)])
        taken = sum(path.stat().st_blocks * 512 for path in store.iterdir())
        for fid in range(1, count + 1):
            if fid % (count // 5) == 1:
                with suppress(DiskFull):
                    engine.checkpoint()
                fill(ballast)  # also what deleting has given back
            if fid == count // 2:
                with suppress(DiskFull):  # no room for a checkpoint
                    engine.close()
                engine = Engine.open(store, OPTIONS)
            assert engine.delete(fid)
        assert engine.stat().chunks == 0
        os.close(ballast)
        engine.compact(below=1.0)
        returned = taken - sum(path.stat().st_blocks * 512 for path in store.iterdir())
        assert returned >= length * count * 3 // 4  # of the rest, most is in the volume that comes next
        wait_until(lambda: os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > MIB, WAIT_S, "space")
        put(engine, 300_000)
        engine.close()
        assert oracle.read_store(store).live.keys() == {300_000}


def test_eio_under_ext4_stops_the_writing_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with failing_device(tmp_path, DEVICE_BYTES) as (device, fail):
        run(needs.program("mkfs.ext4", "e2fsprogs"), "-q", "-F", "-m", "0", device)
        with mounted(device, tmp_path / "disk") as disk:
            store = disk / "store"
            store.mkdir()
            engine = Engine.open(store, OPTIONS)
            for fid in range(1, 40):
                put(engine, fid)
            assert engine.delete(1)
            fail(True)
            later = put_until(engine, 100, StoreFailed)
            known = [*range(2, 40), *later]
            for fid in known:  # what the disk refuses to read is refused; nothing else comes instead
                with suppress(ChunkCorrupt):
                    assert get(engine, fid) == payload_of(fid)
            assert put_until(engine, 1000, StoreFailed) == []
            with suppress(StoreFailed, DiskFull):
                engine.close()
            fail(False)
        run(needs.program("e2fsck", "e2fsprogs"), "-f", "-p", device, statuses=(0, 1))  # 1: repaired
        with mounted(device, tmp_path / "disk") as disk:
            engine = Engine.open(disk / "store", OPTIONS)
            assert all(get(engine, fid) == payload_of(fid) for fid in known)
            with pytest.raises(ChunkNotFound):
                get(engine, 1)
            put(engine, 5000)
            assert get(engine, 5000) == payload_of(5000)
            assert engine.stat().volumes_quarantined == 0
            engine.close()
