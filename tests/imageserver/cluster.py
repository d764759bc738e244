"""A cluster in memory: a master, groups of MemoryChunkStores, and faults that a test switches on per member."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from chunkmaster.interface import FidRange, Group, GroupTable, Heartbeat, Member, MemberState
from chunkserver.interface import Buffer, ChunkInfo, ChunkStore, StoreStat
from chunkserver.memory import MemoryChunkStore
from imageserver.core import ImageLimits, LocalImageStore
from native.checksum import crc32c as crc32c_of
from wire.errors import DeadlineExceeded, GroupNotFound, SpeedyError, Unavailable

GIB = 1 << 30


class MemoryChunkMaster:
    """A ChunkMaster that keeps everything in memory; `up = False` makes it fail like one that nobody reaches."""

    def __init__(self) -> None:
        self.up = True
        self.cluster_id = "test-cluster"
        self.version = 1
        self.groups: dict[int, Group] = {}
        self.next_fid = 1
        self.ranges: list[FidRange] = []
        self.closed: list[int] = []
        self.tables_given = 0
        self._lock = threading.Lock()

    def add_group(self, members: tuple[tuple[str, str], ...]) -> Group:
        with self._lock:
            group_id = len(self.groups) + 1
            made = tuple(Member(server_id, url, "rw", GIB, GIB, 0, 0.0) for server_id, url in members)
            self.groups[group_id] = Group(group_id, len(made), made)
            self.version += 1
            return self.groups[group_id]

    def set_state(self, server_id: str, state: MemberState, free_bytes: int = GIB) -> None:
        with self._lock:
            for group in self.groups.values():
                members = tuple(
                    replace(m, state=state, free_bytes=free_bytes) if m.server_id == server_id else m
                    for m in group.members
                )
                self.groups[group.group_id] = replace(group, members=members)
            self.version += 1

    def group_table(self, known_version: int | None = None) -> GroupTable | None:
        self._must_be_up()
        with self._lock:
            if known_version == self.version:
                return None
            self.tables_given += 1
            return GroupTable(self.cluster_id, self.version, tuple(self.groups.values()))

    def reserve_fids(self, owner: str, count: int) -> FidRange:
        self._must_be_up()
        with self._lock:
            fid_range = FidRange(len(self.ranges) + 1, self.next_fid, self.next_fid + count - 1, owner)
            self.next_fid += count
            self.ranges.append(fid_range)
            return fid_range

    def close_fid_range(self, range_id: int) -> None:
        self._must_be_up()
        with self._lock:
            self.closed.append(range_id)

    def heartbeat(self, beat: Heartbeat) -> GroupTable | None:
        if not any(m.server_id == beat.server_id for g in self.groups.values() for m in g.members):
            raise GroupNotFound(f"no group has {beat.server_id}")
        return self.group_table()

    def _must_be_up(self) -> None:
        if not self.up:
            raise Unavailable("the master is down")


class FaultyStore:
    """A ChunkStore with switches: what is set happens before the call reaches `inner`."""

    def __init__(self, inner: ChunkStore) -> None:
        self.inner = inner
        self.put_error: SpeedyError | None = None
        self.read_error: SpeedyError | None = None
        self.delete_error: SpeedyError | None = None
        self.hang_s: float | None = None  # as long as a client with this time-out would wait
        self.flip = False  # reads give one wrong byte and say nothing
        self.before_put: Callable[[int], None] | None = None
        self.before_read: Callable[[int], None] | None = None
        self.puts = 0
        self.reads = 0
        self.released = threading.Event()  # ends hanging calls

    def kill(self) -> None:
        self.put_error = self.read_error = self.delete_error = Unavailable("connection refused")

    def revive(self) -> None:
        self.put_error = self.read_error = self.delete_error = None

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        self.puts += 1
        self._hang()
        if self.before_put is not None:
            self.before_put(fid)
        if self.put_error is not None:
            raise self.put_error
        self.inner.put(fid, payload, crc32c)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        self.reads += 1
        self._hang()
        if self.before_read is not None:
            self.before_read(fid)
        if self.read_error is not None:
            raise self.read_error
        crc = self.inner.read_into(fid, offset, buffer)
        if not self.flip:
            return crc
        view = memoryview(buffer)
        view[len(view) // 2] ^= 0x40
        return crc32c_of(view)

    def info(self, fid: int) -> ChunkInfo:
        return self.inner.info(fid)

    def delete(self, fid: int) -> bool:
        self._hang()
        if self.delete_error is not None:
            raise self.delete_error
        return self.inner.delete(fid)

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        return self.inner.list_chunks(after_fid, limit)

    def stat(self) -> StoreStat:
        return self.inner.stat()

    def _hang(self) -> None:
        if self.hang_s is not None and not self.released.wait(self.hang_s):
            raise DeadlineExceeded(f"no answer within {self.hang_s:g} s")


@dataclass
class MemoryCluster:
    """`stores` by server id ("g1m1" is the first member of group 1)."""

    master: MemoryChunkMaster = field(default_factory=MemoryChunkMaster)
    stores: dict[str, FaultyStore] = field(default_factory=dict)

    def add_group(self, replicas: int = 3) -> Group:
        number = len(self.master.groups) + 1
        ids = [f"g{number}m{index + 1}" for index in range(replicas)]
        for server_id in ids:
            self.stores[server_id] = FaultyStore(MemoryChunkStore(server_id))
        return self.master.add_group(tuple((server_id, f"local:{server_id}") for server_id in ids))

    def open_store(self, member: Member) -> ChunkStore:
        return self.stores[member.server_id]

    def group_stores(self, group_id: int) -> list[FaultyStore]:
        return [self.stores[member.server_id] for member in self.master.groups[group_id].members]

    def copies(self, fid: int) -> list[str]:
        """Ids of the servers that hold something under `fid`."""
        return [
            server_id
            for server_id, store in self.stores.items()
            if any(info.fid == fid for info in store.inner.list_chunks(fid - 1, 1))
        ]

    def all_fids(self) -> set[int]:
        return {info.fid for store in self.stores.values() for info in store.inner.list_chunks(0, 10_000)}

    def image_store(self, limits: ImageLimits | None = None, **options: object) -> LocalImageStore:
        return LocalImageStore(
            self.master,
            self.open_store,
            owner="test",
            limits=limits or ImageLimits(),
            **options,  # type: ignore[arg-type]
        )


def memory_cluster(groups: int = 1, replicas: int = 3) -> MemoryCluster:
    cluster = MemoryCluster()
    for _ in range(groups):
        cluster.add_group(replicas)
    return cluster
