"""The ChunkUpkeep routes of a ChunkServer; they are listed in chunkserver.app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flask import Flask, Response, jsonify

from chunkserver.interface import ChunkUpkeep, OperationKind
from wire.arguments import body_as, number, query_number
from wire.values import to_json

#: the longest list of volumes fits
BODY_BYTES_MAX = 128 * 1024


@dataclass(frozen=True, slots=True)
class ScrubWish:
    action: Literal["start", "now", "stop"]
    bytes_s: int | None = None


@dataclass(frozen=True, slots=True)
class OperationWish:
    id: str
    kind: OperationKind
    volumes: tuple[int, ...] = ()
    below: float | None = None
    bytes_s: int | None = None


def add_upkeep_routes(app: Flask, store: ChunkUpkeep) -> None:
    @app.get("/v1/volumes")
    def list_volumes() -> Response:
        return jsonify(volumes=to_json(store.volumes()))

    @app.get("/v1/volumes/<volume>/chunks")
    def list_volume_chunks(volume: str) -> Response:
        after, limit = query_number("after", 0), query_number("limit", 1000)
        return jsonify(chunks=to_json(store.volume_chunks(number("volume", volume), after, limit)))

    @app.get("/v1/digests")
    def range_digests() -> Response:
        first = query_number("first", 0)
        span_log2 = query_number("span_log2")
        count = query_number("count")
        return jsonify(ranges=to_json(store.range_digests(first, span_log2, count)))

    @app.get("/v1/scrub")
    def scrub_status() -> Response:
        return jsonify(to_json(store.scrub_status()))

    @app.post("/v1/scrub")
    def control_scrub() -> Response:
        wish = body_as(ScrubWish, BODY_BYTES_MAX)
        if wish.action == "stop":
            return jsonify(to_json(store.stop_scrub()))
        return jsonify(to_json(store.start_scrub(fresh=wish.action == "now", bytes_s=wish.bytes_s)))

    @app.post("/v1/operations")
    def start_operation() -> Response:
        wish = body_as(OperationWish, BODY_BYTES_MAX)
        if wish.kind == "verify":
            return jsonify(to_json(store.start_verify(wish.id, wish.volumes, bytes_s=wish.bytes_s)))
        begun = store.start_compaction(wish.id, wish.volumes, below=wish.below, bytes_s=wish.bytes_s)
        return jsonify(to_json(begun))

    @app.get("/v1/operations/<operation_id>")
    def operation(operation_id: str) -> Response:
        return jsonify(to_json(store.operation(operation_id)))

    @app.delete("/v1/operations/<operation_id>")
    def stop_operation(operation_id: str) -> Response:
        return jsonify(to_json(store.stop_operation(operation_id)))
