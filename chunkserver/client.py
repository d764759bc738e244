"""HttpChunkStore: a ChunkServer somewhere else, as a ChunkStore."""

from __future__ import annotations

from chunkmaster.interface import GroupTable
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
from chunkserver.interface import Buffer, ChunkInfo, Operation, ScrubStatus, StoreStat
from native.checksum import crc32c as crc32c_of
from native.values import RangeDigest, VolumeInfo
from wire.auth import ClusterKey
from wire.errors import ChunkUnreadable
from wire.http import CRC_HEADER, ServiceClient
from wire.values import from_json


class HttpChunkStore:
    """Thread-safe; payloads are sent from and received into the caller's memory.

    `read_timeout_s` bounds each wait for the other side; besides the contract's errors every call may raise Unavailable
    and DeadlineExceeded. Moving a payload is tried once: the caller has other replicas.
    """

    def __init__(
        self,
        base_url: str,
        key: ClusterKey,
        *,
        connect_timeout_s: float = 1.0,
        read_timeout_s: float = 30.0,
        attempts_max: int = 2,
        pool_max: int = 32,
    ) -> None:
        self._client = ServiceClient(
            base_url,
            key,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            attempts_max=attempts_max,
            pool_max=pool_max,
        )

    def put(self, fid: int, payload: Buffer, crc32c: int) -> None:
        view = memoryview(payload).cast("B")
        check_payload(fid, view.nbytes, crc32c)
        self._client.upload("PUT", f"/v1/chunks/{fid}", view, headers={CRC_HEADER: f"{crc32c:08x}"})

    def read_into(self, fid: int, offset: int, buffer: bytearray | memoryview) -> int:
        check_fid(fid)
        view = memoryview(buffer).cast("B")
        if view.nbytes == 0 or offset < 0:
            # HTTP has no range of no bytes
            check_range(fid, offset, view.nbytes, self.info(fid).length)
            return 0
        wanted = {"Range": f"bytes={offset}-{offset + view.nbytes - 1}"}
        headers = self._client.read_into(f"/v1/chunks/{fid}", view, headers=wanted)
        announced = headers.get(CRC_HEADER.lower(), "")
        actual = crc32c_of(view)
        if announced != f"{actual:08x}":
            raise ChunkUnreadable(
                f"chunk {fid} changed on the way from {self._client.base_url}: "
                f"crc32c {announced!r} was sent, {actual:08x} came",
                fid=fid,
            )
        return actual

    def info(self, fid: int) -> ChunkInfo:
        check_fid(fid)
        return from_json(ChunkInfo, self._client.json("GET", f"/v1/chunks/{fid}/info"))

    def delete(self, fid: int) -> bool:
        check_fid(fid)
        return bool(self._client.json("DELETE", f"/v1/chunks/{fid}")["deleted"])

    def list_chunks(self, after_fid: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_list(after_fid, limit)
        answer = self._client.json("GET", "/v1/chunks", params={"after": after_fid, "limit": limit})
        return from_json(list[ChunkInfo], answer["chunks"])

    def stat(self) -> StoreStat:
        return from_json(StoreStat, self._client.json("GET", "/v1/stat"))

    def volumes(self) -> list[VolumeInfo]:
        return from_json(list[VolumeInfo], self._client.json("GET", "/v1/volumes")["volumes"])

    def volume_chunks(self, volume: int, after_offset: int = 0, limit: int = 1000) -> list[ChunkInfo]:
        check_volume_list(volume, after_offset, limit)
        answer = self._client.json(
            "GET", f"/v1/volumes/{volume}/chunks", params={"after": after_offset, "limit": limit}
        )
        return from_json(list[ChunkInfo], answer["chunks"])

    def range_digests(self, first_fid: int, span_log2: int, count: int) -> list[RangeDigest]:
        check_ranges(first_fid, span_log2, count)
        answer = self._client.json(
            "GET", "/v1/digests", params={"first": first_fid, "span_log2": span_log2, "count": count}
        )
        return from_json(list[RangeDigest], answer["ranges"])

    def scrub_status(self) -> ScrubStatus:
        return from_json(ScrubStatus, self._client.json("GET", "/v1/scrub"))

    def start_scrub(self, *, fresh: bool = False, bytes_s: int | None = None) -> ScrubStatus:
        check_rate(bytes_s)
        return self._scrub({"action": "now" if fresh else "start", "bytes_s": bytes_s})

    def stop_scrub(self) -> ScrubStatus:
        return self._scrub({"action": "stop"})

    def _scrub(self, wish: dict[str, object]) -> ScrubStatus:
        return from_json(ScrubStatus, self._client.json("POST", "/v1/scrub", json=wish))

    def start_verify(
        self, operation_id: str, volumes: tuple[int, ...] = (), *, bytes_s: int | None = None
    ) -> Operation:
        check_operation(operation_id, volumes, bytes_s)
        return self._begin({"id": operation_id, "kind": "verify", "volumes": volumes, "bytes_s": bytes_s})

    def start_compaction(
        self,
        operation_id: str,
        volumes: tuple[int, ...] = (),
        *,
        below: float | None = None,
        bytes_s: int | None = None,
    ) -> Operation:
        check_operation(operation_id, volumes, bytes_s)
        check_share(below)
        return self._begin(
            {"id": operation_id, "kind": "compaction", "volumes": volumes, "below": below, "bytes_s": bytes_s}
        )

    def operation(self, operation_id: str) -> Operation:
        check_operation(operation_id, (), None)
        return from_json(Operation, self._client.json("GET", f"/v1/operations/{operation_id}"))

    def stop_operation(self, operation_id: str) -> Operation:
        check_operation(operation_id, (), None)
        return from_json(Operation, self._client.json("DELETE", f"/v1/operations/{operation_id}"))

    def _begin(self, wish: dict[str, object]) -> Operation:
        return from_json(Operation, self._client.json("POST", "/v1/operations", json=wish))

    def group_table(self) -> GroupTable:
        """The last group table a master sent to that server. Raises NotFound when there was none."""
        return from_json(GroupTable, self._client.json("GET", "/v1/group-table"))

    def close(self) -> None:
        self._client.close()
