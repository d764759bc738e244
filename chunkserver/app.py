"""The ChunkStore over HTTP. Parses, calls one method of the store, formats.

    PUT    /v1/chunks/<fid>        body: payload; Content-Length and Speedy-Crc32c are required -> 204
    GET    /v1/chunks/<fid>        payload, or with `Range: bytes=...` a part of it; Speedy-Crc32c of the bytes sent
    HEAD   /v1/chunks/<fid>        length and Speedy-Crc32c of the payload
    GET    /v1/chunks/<fid>/info   ChunkInfo
    DELETE /v1/chunks/<fid>        {"deleted": bool}
    GET    /v1/chunks?after=&limit=   {"chunks": [ChunkInfo, ...]}
    GET    /v1/stat                StoreStat
    GET    /v1/volumes             {"volumes": [VolumeInfo, ...]}
    GET    /v1/volumes/<id>/chunks?after=&limit=      {"chunks": [ChunkInfo, ...]} by place; after: an offset
    GET    /v1/digests?first=&span_log2=&count=       {"ranges": [RangeDigest, ...]}
    GET    /v1/scrub               ScrubStatus
    POST   /v1/scrub               {"action": "start" | "now" | "stop", "bytes_s": number or null} -> ScrubStatus;
                                   start: go on, or begin a round; now: begin a round; stop: pause
    POST   /v1/operations          {"id": ..., "kind": "verify" | "compaction", "volumes": [...], "below": share or
                                   null, "bytes_s": number or null} -> Operation, which has begun
    GET    /v1/operations/<id>     Operation
    DELETE /v1/operations/<id>     Operation, which was stopped
    GET    /v1/group-table         the last GroupTable that a master sent; 404 when there was none

One difference from plain HTTP: a range that reaches beyond the chunk's end is refused and not cut, because a reader
that asks for it has a wrong picture of the chunk. Several ranges in one request are answered with the whole chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import Range

from chunkmaster.interface import GroupTable
from chunkserver.checks import check_payload
from chunkserver.interface import ChunkInfo, ChunkServer
from chunkserver.metrics import StoreCollector
from chunkserver.payloads import PayloadMemory
from chunkserver.upkeep_routes import add_upkeep_routes
from wire.arguments import announced_crc32c, number, query_number
from wire.auth import ClusterKey
from wire.body import RequestBody
from wire.checks import unless_full
from wire.errors import BadRequest, NotFound, RangeNotSatisfiable
from wire.http import CRC_HEADER
from wire.response import StreamResponse
from wire.service import create_service, metrics_of
from wire.values import to_json


class TableSource(Protocol):
    @property
    def table(self) -> GroupTable | None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes [first, first + length) of a chunk; `whole`: they are all of it, and were not asked for as a range."""

    first: int
    length: int
    whole: bool


def create_app(
    store: ChunkServer,
    *,
    key: ClusterKey | None,
    ready: Callable[[], None],
    tables: TableSource,
    incoming: PayloadMemory,
    outgoing: PayloadMemory,
) -> Flask:
    """`incoming` and `outgoing` bound the memory of writes and reads apart, so that neither starves the other."""
    app = create_service("chunkserver", key=key, ready=unless_full(ready), writable=ready)
    metrics_of(app).register(StoreCollector(store))

    @app.put("/v1/chunks/<fid>")
    def put_chunk(fid: str) -> Response:
        wanted = number("fid", fid)
        length = _announced_length()
        crc = announced_crc32c()
        check_payload(wanted, length, crc)  # before a byte is read
        payload = incoming.lend(length)
        try:
            RequestBody(request.environ).read_exact_into(payload.view)
            store.put(wanted, payload.view, crc)
        finally:
            payload.release()
        return Response(status=204)

    _add_reading_routes(app, store, outgoing)

    @app.delete("/v1/chunks/<fid>")
    def delete_chunk(fid: str) -> Response:
        return jsonify(deleted=store.delete(number("fid", fid)))

    @app.get("/v1/chunks")
    def list_chunks() -> Response:
        after, limit = query_number("after", 0), query_number("limit", 1000)
        return jsonify(chunks=to_json(store.list_chunks(after, limit)))

    add_upkeep_routes(app, store)

    @app.get("/v1/group-table")
    def group_table() -> Response:
        table = tables.table
        if table is None:
            raise NotFound("no ChunkMaster has sent a group table yet")
        return jsonify(to_json(table))

    return app


#: the first parts of the paths that an upkeep app serves, below /v1/
UPKEEP_NOUNS = frozenset({"chunks", "stat", "volumes", "digests", "scrub", "operations"})


def create_upkeep_app(
    store: ChunkServer, *, key: ClusterKey, ready: Callable[[], None], outgoing: PayloadMemory
) -> Flask:
    """What operators ask of a store whose chunks are put and deleted by others: upkeep, and reading one chunk."""
    app = create_service("chunkserver", key=key, ready=ready)
    _add_reading_routes(app, store, outgoing)
    add_upkeep_routes(app, store)
    return app


def _add_reading_routes(app: Flask, store: ChunkServer, outgoing: PayloadMemory) -> None:
    @app.get("/v1/chunks/<fid>")
    def get_chunk(fid: str) -> Response:
        info = store.info(number("fid", fid))
        if request.method == "HEAD":
            return Response(headers=_headers(info.crc32c) | {"Content-Length": str(info.length)})
        part = _part(request.range, info)
        payload = outgoing.lend(part.length)
        try:
            crc = store.read_into(info.fid, part.first, payload.view)
        except BaseException:
            payload.release()
            raise
        headers = _headers(crc)
        if not part.whole:
            headers["Content-Range"] = f"bytes {part.first}-{part.first + part.length - 1}/{info.length}"
        return StreamResponse.of_buffer(
            payload.view, payload.release, status=200 if part.whole else 206, headers=headers
        )

    @app.get("/v1/chunks/<fid>/info")
    def get_info(fid: str) -> Response:
        return jsonify(to_json(store.info(number("fid", fid))))

    @app.get("/v1/stat")
    def stat() -> Response:
        return jsonify(to_json(store.stat()))


def _announced_length() -> int:
    length = request.headers.get("Content-Length")
    if length is None or request.headers.get("Transfer-Encoding") is not None:
        raise BadRequest("a chunk comes with its Content-Length: memory is given out before it is read")
    return number("Content-Length", length)


def _headers(crc: int) -> dict[str, str]:
    return {
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        CRC_HEADER: f"{crc:08x}",
    }


def _part(asked: Range | None, info: ChunkInfo) -> Part:
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return Part(0, info.length, whole=True)
    begin, end = asked.ranges[0]
    first = begin if begin >= 0 else max(0, info.length + begin)
    last = info.length if end is None else end
    if first >= info.length or last > info.length:
        raise RangeNotSatisfiable(
            f"chunk {info.fid} has {info.length} bytes, {asked.to_header()} was asked for", length=info.length
        )
    return Part(first, last - first, whole=False)
