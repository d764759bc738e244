"""The driver and the image store on real engines: bytes on disk, and what happens when some of them go bad."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from chunkserver.core import LocalChunkStore
from imageserver.core import LocalImageStore
from native.digest import Digest
from native.engine import EngineOptions
from registry_driver.chunked import ChunkedDriver, DriverLimits
from tests.imageserver.cluster import MemoryChunkMaster
from tests.wire.no_threads import no_more_threads
from wire.buffers import BufferPool
from wire.errors import ChunkUnreadable

MIB = 1024 * 1024
CLUSTER_ID = "0c1e4c76-60f9-4b2f-9c5e-0f3f6b0b8a55"


@dataclass
class Setup:
    directory: Path
    stores: dict[str, LocalChunkStore]
    images: LocalImageStore
    driver: ChunkedDriver


@pytest.fixture(params=[1, 3])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    options = EngineOptions(cluster_id=CLUSTER_ID, volume_size_first=16 * MIB, volume_size_max=64 * MIB)
    ids = [f"cs{number}" for number in range(request.param)]
    stores = {each: LocalChunkStore.open(tmp_path / each, options, server_id=each) for each in ids}
    master = MemoryChunkMaster()
    master.add_group(tuple((each, f"local:{each}") for each in ids))
    images = LocalImageStore(master, lambda member: stores[member.server_id], owner="test")
    driver = ChunkedDriver(images, BufferPool(MIB, 12), DriverLimits(MIB, read_piece_bytes=256 * 1024))
    yield Setup(tmp_path, stores, images, driver)
    driver.close()
    images.close()
    for store in stores.values():
        store.close()


def test_a_layer_goes_to_every_engine_and_comes_back(setup: Setup) -> None:
    data = random.Random(1).randbytes(9 * MIB + 12345)
    progress = setup.driver.write_stream(BytesIO(data), offset=0, digest=Digest("sha256"), record=lambda _: None)
    assert len(progress.fragments) == 10
    for store in setup.stores.values():
        for fragment in progress.fragments:
            buffer = bytearray(fragment.length)
            store.read_into(fragment.fid, 0, buffer)
            assert buffer == data[fragment.offset : fragment.offset + fragment.length]
    for offset, length in [(0, len(data)), (MIB - 7, 300_000), (len(data) - 5, 5)]:
        got = b"".join(bytes(view) for view in setup.driver.read_stream(progress.fragments, offset, length))
        assert got == data[offset : offset + length]
    assert setup.driver.delete_fragments(progress.fragments) == []
    for store in setup.stores.values():
        assert store.list_chunks() == []


def test_a_layer_goes_and_comes_when_other_pools_have_taken_all_threads(setup: Setup) -> None:
    data = random.Random(3).randbytes(5 * MIB)
    with no_more_threads():
        progress = setup.driver.write_stream(BytesIO(data), offset=0, digest=Digest("sha256"), record=lambda _: None)
        got = b"".join(bytes(view) for view in setup.driver.read_stream(progress.fragments, 0, len(data)))
    assert got == data


@pytest.mark.parametrize("whole", [True, False])
def test_a_flipped_byte_on_disk_is_never_given_out(setup: Setup, whole: bool) -> None:
    data = random.Random(2).randbytes(3 * MIB)
    progress = setup.driver.write_stream(BytesIO(data), offset=0, digest=Digest("sha256"), record=lambda _: None)
    spoilt = progress.fragments[1]
    needle = data[spoilt.offset + 500_000 : spoilt.offset + 500_064]
    sick = list(setup.stores)[spoilt.fid % len(setup.stores)]  # the member that is asked first
    _flip_on_disk(setup.directory / sick, needle)
    offset, length = (0, len(data)) if whole else (spoilt.offset + 400_000, 200_000)
    stream = setup.driver.read_stream(progress.fragments, offset, length)
    if len(setup.stores) == 1:
        got: list[bytes] = []
        with pytest.raises(ChunkUnreadable):
            got.extend(bytes(view) for view in stream)
        before = b"".join(got)
        assert before == data[offset : offset + len(before)]
    else:
        assert b"".join(bytes(view) for view in stream) == data[offset : offset + length]
        assert setup.images.counters.values()["bad_copies"] == 1


def _flip_on_disk(directory: Path, needle: bytes) -> None:
    """Change one byte of `needle` in the one file below `directory` that holds it."""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        with path.open("r+b") as file:
            place = file.read().find(needle)
            if place >= 0:
                file.seek(place + 32)
                file.write(bytes([needle[32] ^ 1]))
                return
    raise AssertionError("the bytes are not on disk")
