"""MemoryChunkStore: a ChunkStore that forgets when the process ends. For tests and measurements of other rooms."""

from __future__ import annotations

import bisect
import threading
import time
import uuid
from dataclasses import replace

from chunkserver.checks import (
    check_fid,
    check_list,
    check_operation,
    check_payload,
    check_range,
    check_ranges,
    check_rate,
    check_share,
    check_volume_list,
)
from chunkserver.interface import Buffer, ChunkInfo, Operation, OperationKind, ScrubStatus, StoreStat
from native.checksum import crc32c as crc32c_of
from native.values import Damage, RangeDigest, VolumeInfo
from wire.errors import (
    ChecksumMismatch,
    ChunkConflict,
    ChunkNotFound,
    Conflict,
    OperationNotFound,
    StorageFull,
    VolumeNotFound,
)

_U64 = (1 << 64) - 1
_VOLUME = 1


class MemoryChunkStore:
    """Keeps every payload as one bytes object. `capacity_bytes` bounds the sum of the payloads' lengths.

    Offsets count the bytes ever put, as in an append-only volume (number 1), so that an unchanged place can be told
    from a rewritten one.
    """

    def __init__(self, server_id: str = "memory", *, capacity_bytes: int = 1 << 30) -> None:
        self.server_id = server_id
        self._capacity_bytes = capacity_bytes
        self._lock = threading.Lock()
        self._chunks: dict[int, tuple[bytes, ChunkInfo]] = {}
        self._fids: list[int] = []  # the keys of _chunks, ascending
        self._live_bytes = 0
        self._tail = 0
        self._fid_max = 0
        self._uuid = str(uuid.uuid4())
        self._operation: Operation | None = None
        self._scrub = ScrubStatus("idle", 0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, ())

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        view = memoryview(payload).cast("B")
        check_payload(fid, view.nbytes, crc32c)
        actual = crc32c_of(view)
        if actual != crc32c:
            raise ChecksumMismatch(
                f"chunk {fid}: crc32c {crc32c:08x} was announced, {actual:08x} came", expected=crc32c, actual=actual
            )
        stored = bytes(view)
        with self._lock:
            present = self._chunks.get(fid)
            if present is not None:
                if present[0] != stored:
                    raise ChunkConflict(f"other bytes are stored under fid {fid}", fid=fid)
                return
            if self._live_bytes + len(stored) > self._capacity_bytes:
                raise StorageFull(f"chunk {fid} of {len(stored)} bytes does not fit, {self._free_bytes} are free")
            self._chunks[fid] = (
                stored,
                ChunkInfo(
                    fid, len(stored), crc32c, volume=_VOLUME, offset=self._tail, created_s=float(int(time.time()))
                ),
            )
            bisect.insort(self._fids, fid)
            self._live_bytes += len(stored)
            self._tail += len(stored)
            self._fid_max = max(self._fid_max, fid)

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer).cast("B")
        stored, info = self._get(fid)
        check_range(fid, offset, view.nbytes, info.length)
        view[:] = stored[offset : offset + view.nbytes]
        return crc32c_of(view)

    def info(self, fid: int) -> ChunkInfo:
        return self._get(fid)[1]

    def delete(self, fid: int) -> bool:
        check_fid(fid)
        with self._lock:
            present = self._chunks.pop(fid, None)
            if present is None:
                return False
            del self._fids[bisect.bisect_left(self._fids, fid)]
            self._live_bytes -= present[1].length
            return True

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_list(after_fid, limit)
        with self._lock:
            start = bisect.bisect_right(self._fids, after_fid)
            return [self._chunks[fid][1] for fid in self._fids[start : start + limit]]

    def stat(self) -> StoreStat:
        with self._lock:
            return StoreStat(
                server_id=self.server_id,
                state="rw" if self._free_bytes > 0 else "ro_full",
                chunks=len(self._chunks),
                live_bytes=self._live_bytes,
                dead_bytes=0,
                free_bytes=self._free_bytes,
                total_bytes=self._capacity_bytes,
                volumes=1,
                volumes_failed=0,
                fid_max=self._fid_max,
                damaged=self._scrub.known_damaged,
                scrubbed_s=self._scrub.ended_s,
            )

    def volumes(self) -> list[VolumeInfo]:
        with self._lock:
            return [
                VolumeInfo(
                    id=_VOLUME,
                    uuid=self._uuid,
                    state="active",
                    size_bytes=self._capacity_bytes,
                    tail=self._tail,
                    chunks=len(self._chunks),
                    payload_bytes=self._live_bytes,
                    live_bytes=self._live_bytes,
                    dead_bytes=0,
                    pad_bytes=0,
                    free_bytes=self._free_bytes,
                    allocated_bytes=self._live_bytes,
                    punched_bytes=0,
                    fid_max=self._fid_max,
                )
            ]

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_volume_list(volume, after_offset, limit)
        if volume != _VOLUME:
            raise VolumeNotFound(f"no volume {volume}")
        with self._lock:
            behind = [info for _, info in self._chunks.values() if info.offset > after_offset]
        return sorted(behind, key=lambda info: info.offset)[:limit]

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        """As defined in native/src/range_digest.c."""
        check_ranges(first_fid, span_log2, count)
        with self._lock:
            held = [info for _, info in self._chunks.values()]
        sums = [[0, 0, 0, 0] for _ in range(count)]
        for info in held:
            number = (info.fid - first_fid) >> span_log2
            if 0 <= number < count:
                facts = info.length << 32 | info.crc32c
                found = sums[number]
                found[0] += 1
                found[1] += info.length
                found[2] += _mix(_mix((info.fid + 0x9E3779B97F4A7C15) & _U64) ^ facts)
                found[3] += _mix((_mix((info.fid + 0xC2B2AE3D27D4EB4F) & _U64) + facts) & _U64)
        return [
            RangeDigest(first_fid + (number << span_log2), chunks, length, f"{one & _U64:016x}{other & _U64:016x}")
            for number, (chunks, length, one, other) in enumerate(sums)
        ]

    def scrub_status(self) -> ScrubStatus:
        with self._lock:
            return self._scrub

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        """A whole round, at once."""
        check_rate(bytes_s)
        with self._lock:
            now_s = time.time()
            damage = self._damage(now_s)
            self._scrub = ScrubStatus(
                state="idle",
                round=self._scrub.round + 1,
                rounds=self._scrub.rounds + 1,
                started_s=now_s,
                ended_s=time.time(),
                total_bytes=self._live_bytes,
                checked_bytes=self._live_bytes,
                checked_chunks=len(self._chunks),
                damaged=len(damage),
                volume=_VOLUME,
                offset=self._tail,
                bytes_s=bytes_s or 0,
                known_damaged=len(damage),
                damage=damage[:1024],
            )
            return self._scrub

    def stop_scrub(self) -> ScrubStatus:
        with self._lock:
            self._scrub = replace(self._scrub, state="paused")
            return self._scrub

    def start_verify(
        self, operation_id: str, volumes: tuple[int, ...] = (), *, bytes_s: int | None = None
    ) -> Operation:
        """All of it, at once."""
        check_operation(operation_id, volumes, bytes_s)
        return self._begin(operation_id, "verify", volumes, bytes_s)

    def start_compaction(
        self,
        operation_id: str,
        volumes: tuple[int, ...] = (),
        *,
        below: float | None = None,
        bytes_s: int | None = None,
    ) -> Operation:
        """There is nothing to give back: what is deleted is gone at once."""
        check_operation(operation_id, volumes, bytes_s)
        check_share(below)
        return self._begin(operation_id, "compaction", volumes, bytes_s)

    def operation(self, operation_id: str) -> Operation:
        check_operation(operation_id, (), None)
        with self._lock:
            if self._operation is None or self._operation.id != operation_id:
                raise OperationNotFound(f"no operation {operation_id}")
            return self._operation

    def stop_operation(self, operation_id: str) -> Operation:
        return self.operation(operation_id)

    def _begin(
        self, operation_id: str, kind: OperationKind, volumes: tuple[int, ...], bytes_s: int | None
    ) -> Operation:
        if set(volumes) - {_VOLUME}:
            raise VolumeNotFound(f"no volume {', '.join(map(str, volumes))}")
        with self._lock:
            last = self._operation
            if last is not None and last.id == operation_id:
                if last.kind != kind:
                    raise Conflict(f"operation {operation_id} is a {last.kind}")
                return last
            now_s = time.time()
            done = Operation(operation_id, kind, "done", volumes, bytes_s or 0, now_s, now_s)
            if kind == "verify":
                damage = self._damage(now_s)
                done = replace(
                    done,
                    total_bytes=self._live_bytes,
                    done_bytes=self._live_bytes,
                    chunks=len(self._chunks),
                    damaged=len(damage),
                    damage=damage[:1024],
                )
            self._operation = done
            return done

    def _damage(self, now_s: float) -> tuple[Damage, ...]:
        """With the lock."""
        return tuple(
            Damage(info.fid, info.volume, info.offset, info.length, "the payload fails its checksum", now_s)
            for stored, info in self._chunks.values()
            if crc32c_of(stored) != info.crc32c
        )

    @property
    def _free_bytes(self) -> int:
        return self._capacity_bytes - self._live_bytes

    def _get(self, fid: int) -> tuple[bytes, ChunkInfo]:
        check_fid(fid)
        with self._lock:
            present = self._chunks.get(fid)
        if present is None:
            raise ChunkNotFound(f"no chunk {fid}", fid=fid)
        return present


def _mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _U64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _U64
    return value ^ value >> 31
