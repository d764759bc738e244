"""The HTTP face of an ImageServer (internal API, version 1).

    PUT  /v1/chunks                    body: payload; Content-Length and Speedy-Crc32c are required -> 201, ChunkRef
    GET  /v1/chunks/<group_id>/<fid>?length=&crc32c=   payload, or one Range of it; Speedy-Crc32c of the bytes sent
    POST /v1/chunks/delete             {"refs": [ChunkRef, ...]} -> {"left": [ChunkRef, ...]}
    GET  /v1/check                     204 when chunks can be written

Payloads lie in pooled buffers; when none comes free in time, the answer is 503 with Retry-After. So the pool's size
bounds both the memory and the number of chunks in transfer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from flask import Flask, Response, jsonify, request
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from chunkserver.interface import CHUNK_BYTES_MAX
from imageserver.counters import Counters
from imageserver.interface import ChunkRef, ImageStore
from imageserver.protocol import DELETE_MAX
from wire.arguments import announced_crc32c, body_as, query_number
from wire.auth import ClusterKey
from wire.body import RequestBody
from wire.buffers import BufferPool
from wire.checks import unless_full
from wire.errors import BadRequest, PayloadTooLarge, RangeNotSatisfiable
from wire.http import CRC_HEADER
from wire.response import StreamResponse
from wire.service import create_service, metrics_of
from wire.values import to_json

#: DELETE_MAX references take a tenth of it
BODY_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class ChunkRefs:
    refs: tuple[ChunkRef, ...]


@dataclass(frozen=True, slots=True)
class ChunkBuffers:
    """Memory for payloads: `usual` for chunks of the usual size, `large` for those up to CHUNK_BYTES_MAX. `wait_s`:
    for a buffer. `idle_s`: the longest silence of a sender."""

    usual: BufferPool
    large: BufferPool
    wait_s: float = 5.0
    idle_s: float = 30.0

    def pool_for(self, length: int) -> BufferPool:
        return self.usual if length <= self.usual.buffer_bytes else self.large


def chunk_buffers(buffer_bytes: int, count_max: int, *, large_max: int = 2) -> ChunkBuffers:
    """Pools for `count_max` chunks of up to `buffer_bytes` and `large_max` larger ones; memory is taken when it is
    used."""
    return ChunkBuffers(BufferPool(buffer_bytes, count_max), BufferPool(CHUNK_BYTES_MAX, large_max))


def create_app(
    store: ImageStore, *, key: ClusterKey | None, buffers: ChunkBuffers, counters: Counters | None = None
) -> Flask:
    app = create_service("imageserver", key=key, ready=unless_full(store.check), writable=store.check)
    if counters is not None:
        metrics_of(app).register(_CountersCollector(counters))

    @app.put("/v1/chunks")
    def put_chunk() -> Response:
        crc32c = announced_crc32c()
        body = RequestBody(request.environ, idle_timeout_s=buffers.idle_s)
        if body.length is None:
            raise BadRequest("a chunk needs a Content-Length")
        if body.length > CHUNK_BYTES_MAX:
            raise PayloadTooLarge(f"a chunk of {body.length} bytes, at most {CHUNK_BYTES_MAX}", limit=CHUNK_BYTES_MAX)
        pool = buffers.pool_for(body.length)
        buffer = pool.acquire(buffers.wait_s)
        try:
            payload = buffer[: body.length]
            body.read_exact_into(payload)
            ref = store.put_chunk(payload, crc32c)
        finally:
            pool.release(buffer)
        response = jsonify(to_json(ref))
        response.status_code = 201
        return response

    @app.get("/v1/chunks/<int:group_id>/<int:fid>")
    def read_chunk(group_id: int, fid: int) -> StreamResponse:
        ref = ChunkRef(fid, group_id, query_number("length"), query_number("crc32c"))
        if ref.length > CHUNK_BYTES_MAX:
            raise BadRequest(f"no chunk has {ref.length} bytes")
        start, stop = _range_of(ref.length)
        pool = buffers.pool_for(stop - start)
        buffer = pool.acquire(buffers.wait_s)
        try:
            view = buffer[: stop - start]
            crc32c = store.read_chunk_into(ref, start, view)
            whole = stop - start == ref.length
            headers = {CRC_HEADER: f"{crc32c:08x}"}
            if not whole:
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{ref.length}"
            return StreamResponse.of_buffer(
                view, partial(pool.release, buffer), status=200 if whole else 206, headers=headers
            )
        except BaseException:
            pool.release(buffer)
            raise

    @app.post("/v1/chunks/delete")
    def delete_chunks() -> Response:
        refs = body_as(ChunkRefs, BODY_BYTES_MAX).refs
        if len(refs) > DELETE_MAX:
            raise BadRequest(f"{len(refs)} chunks at once, at most {DELETE_MAX}")
        return jsonify(left=to_json(store.delete_chunks(refs)))

    @app.get("/v1/check")
    def check() -> Response:
        store.check()
        return Response(status=204)

    return app


def _range_of(length: int) -> tuple[int, int]:
    """[start, stop) of the one range asked for; the whole chunk without a Range header."""
    if "Range" not in request.headers:
        return 0, length
    asked = request.range
    found = asked.range_for_length(length) if asked is not None and asked.units == "bytes" else None
    if found is None or found[0] is None or found[1] is None:
        raise RangeNotSatisfiable(f"{request.headers['Range'][:60]!r} of a chunk of {length} bytes", length=length)
    return found[0], found[1]


class _CountersCollector(Collector):
    """Shows the store's own numbers when metrics are asked for."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        for name, value in self._counters.values().items():
            yield CounterMetricFamily(f"speedy_image_{name}", f"{name.replace('_', ' ')} since the start", value)
