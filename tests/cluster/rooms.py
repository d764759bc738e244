"""What these tests start in processes of their own, through tests.wire.serving."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from chunkmaster.client import HttpChunkMaster
from chunkserver.app import create_app
from chunkserver.core import LocalChunkStore
from chunkserver.data_directory import DataDirectory
from chunkserver.heartbeat import Heartbeats
from chunkserver.interface import Buffer, ChunkInfo, StoreStat
from chunkserver.joining import JoiningChunkStore
from chunkserver.payloads import PayloadMemory
from chunkserver.table_file import GroupTableFile
from tests.chunkmaster.rooms import KEY
from tests.chunkserver.rooms import MIB, engine_options
from wire.errors import Unavailable
from wire.server import RoomApp


class Barrier:
    """Lets the k-th of `count` go on only when the one after it has begun."""

    def __init__(self, count: int, wait_s: float) -> None:
        self._begun: set[int] = set()
        self._count = count
        self._wait_s = wait_s
        self._changed = threading.Condition()

    def meet(self, number: int) -> None:
        """Raises Unavailable when the next one does not begin: nothing but this one is in flight."""
        with self._changed:
            self._begun.add(number)
            self._changed.notify_all()
            if not self._changed.wait_for(
                lambda: number + 1 in self._begun or len(self._begun) >= self._count, self._wait_s
            ):
                raise Unavailable(f"{number + 1} did not begin while {number} was in flight")


class BarrierStore:
    """A ChunkStore whose puts and reads of one file meet at barriers.

    Puts go by their fids, which one ImageServer hands out in a row. Reads go by the file's order, which the test writes
    to `order_file` (the list of its fids) once it knows it: requests that are in flight at once get their fids in any
    order.
    """

    def __init__(self, inner: JoiningChunkStore, chunks: int, order_file: Path, wait_s: float) -> None:
        self._inner = inner
        self._order_file = order_file
        self._puts = Barrier(chunks, wait_s)
        self._reads = Barrier(chunks, wait_s)

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        self._puts.meet(fid)
        self._inner.put(fid, payload, crc32c)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        order: list[int] = json.loads(self._order_file.read_text())
        self._reads.meet(order.index(fid))
        return self._inner.read_into(fid, offset, buffer)

    def info(self, fid: int) -> ChunkInfo:
        return self._inner.info(fid)

    def delete(self, fid: int) -> bool:
        return self._inner.delete(fid)

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self._inner.list_chunks(after_fid, limit)

    def stat(self) -> StoreStat:
        return self._inner.stat()


def build_chunkserver_with_barriers(
    *, data: str, master: str, server_id: str, port: int, chunks: int, order_file: str, barrier_wait_s: float
) -> RoomApp:
    """A ChunkServer that holds `chunks` chunks' puts and reads up until their successors have begun."""
    directory = DataDirectory.open(Path(data), server_id=server_id)
    inner = JoiningChunkStore(
        directory, lambda held, cluster_id: LocalChunkStore.open_in(held, engine_options(cluster_id))
    )
    tables = GroupTableFile(None)
    masters = [HttpChunkMaster([master], KEY)]
    heartbeats = Heartbeats(masters, inner, f"http://127.0.0.1:{port}", tables, heartbeat_s=0.1)
    app = create_app(
        BarrierStore(inner, chunks, Path(order_file), barrier_wait_s),
        key=KEY,
        ready=inner.check,
        tables=tables,
        incoming=PayloadMemory(64 * MIB),
        outgoing=PayloadMemory(64 * MIB),
    )
    heartbeats.start()
    closing: tuple[Callable[[], object], ...] = (heartbeats.stop, masters[0].close, inner.close)

    def close() -> None:
        for each in closing:
            each()

    return RoomApp(app, close)
