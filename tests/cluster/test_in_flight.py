"""Several chunks of one layer are in flight at once, in both directions, over HTTP between real processes.

The ChunkServers let chunk k end only when chunk k + 1 has begun. Whoever sends or fetches one chunk after the other
never gets past the first one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from chunkmaster.client import HttpChunkMaster
from imageserver.client import ClientLimits, HttpImageStore
from metaserver.interface import Fragment
from native.digest import Digest
from registry_driver.chunked import ChunkedDriver, DriverLimits
from tests.chunkmaster.rooms import KEY
from tests.ports import free_port
from tests.wire.serving import Server, is_ready, start, stop, wait_until
from wire.buffers import BufferPool
from wire.errors import SpeedyError

CHUNK_BYTES = 1024 * 1024
CHUNKS = 9
LAYER = os.urandom((CHUNKS - 1) * CHUNK_BYTES + 12345)

#: for the next chunk to begin; shorter than any time-out around it, so that the barrier's own error is what is told
BARRIER_WAIT_S = 2.0


@dataclass
class Line:
    """A ChunkServer with barriers in a group of its own, and everything that a driver needs to reach it."""

    images: HttpImageStore
    order_file: Path
    chunkserver: Server

    def driver(self, **windows: int) -> ChunkedDriver:
        return ChunkedDriver(self.images, BufferPool(CHUNK_BYTES, 16), DriverLimits(CHUNK_BYTES, **windows))

    def push(self, **windows: int) -> list[Fragment]:
        driver = self.driver(**windows)
        try:
            recorded: list[Fragment] = []
            last = driver.write_stream(
                BytesIO(LAYER),
                offset=0,
                digest=Digest("sha256"),
                record=lambda progress: recorded.extend(progress.fragments),
            )
        finally:
            driver.close()
        fragments = [*recorded, *last.fragments]
        self.order_file.write_text(json.dumps([fragment.fid for fragment in fragments]))
        return fragments

    def pull(self, fragments: list[Fragment], **windows: int) -> bytes:
        driver = self.driver(**windows)
        try:
            return b"".join(bytes(view) for view in driver.read_stream(fragments, 0, len(LAYER)))
        finally:
            driver.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    key_file = tmp_path / "cluster.key"
    KEY.save(key_file)
    order_file = tmp_path / "order.json"
    with ExitStack() as running:
        master = start(
            "tests.chunkmaster.rooms:build_master",
            {"database_url": f"sqlite:///{tmp_path}/master.db", "key_file": str(key_file)},
        )
        running.callback(stop, master)
        port = free_port()
        with_master = HttpChunkMaster([master.url], KEY)
        running.callback(with_master.close)
        with_master.add_group((("cs0", f"http://127.0.0.1:{port}"),))
        chunkserver = start(
            "tests.cluster.rooms:build_chunkserver_with_barriers",
            {
                "data": str(tmp_path / "cs0"),
                "master": master.url,
                "server_id": "cs0",
                "port": port,
                "chunks": CHUNKS,
                "order_file": str(order_file),
                "barrier_wait_s": BARRIER_WAIT_S,
            },
            ready=False,
            port=port,
        )
        running.callback(stop, chunkserver)
        imageserver = start(
            "tests.imageserver.rooms:build_imageserver",
            {
                "masters": [master.url],
                "key_file": str(key_file),
                "state_dir": str(tmp_path / "images"),
                "replica_timeout_s": 3 * BARRIER_WAIT_S,
            },
            ready=False,
        )
        running.callback(stop, imageserver)
        images = HttpImageStore([imageserver.url], KEY, limits=ClientLimits(attempts_max=1))
        running.callback(images.close)
        wait_until(lambda: is_ready(imageserver), 30, "the ImageServer")
        yield Line(images, order_file, chunkserver)


def test_a_layer_whose_chunks_end_only_after_the_next_one_has_begun_is_pushed_and_pulled(line: Line) -> None:
    fragments = line.push()
    assert len(fragments) == CHUNKS
    assert line.pull(fragments) == LAYER
    assert "did not begin while" not in line.chunkserver.log


def test_one_chunk_at_a_time_does_not_get_past_the_barrier_in_either_direction(line: Line) -> None:
    """What the test above relies on."""
    with pytest.raises(SpeedyError, match="did not begin while"):
        line.push(write_window=1)
    fragments = line.push()
    with pytest.raises(SpeedyError, match="did not begin while 0 was in flight"):
        line.pull(fragments, read_window=1)
