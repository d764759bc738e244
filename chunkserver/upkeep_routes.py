"""The ChunkUpkeep routes of a ChunkServer; they are listed in chunkserver.app."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from flask import Flask, Response, jsonify, request

from chunkserver.interface import ChunkUpkeep
from wire.errors import BadRequest
from wire.values import from_json, to_json

_NUMBER = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class ScrubWish:
    action: Literal["start", "now", "stop"]
    bytes_s: int | None = None


def add_upkeep_routes(app: Flask, store: ChunkUpkeep) -> None:
    @app.get("/v1/volumes")
    def list_volumes() -> Response:
        return jsonify(volumes=to_json(store.volumes()))

    @app.get("/v1/volumes/<volume>/chunks")
    def list_volume_chunks(volume: str) -> Response:
        after = number("after", request.args.get("after", "0"))
        limit = number("limit", request.args.get("limit", "1000"))
        return jsonify(chunks=to_json(store.volume_chunks(number("volume", volume), after, limit)))

    @app.get("/v1/digests")
    def range_digests() -> Response:
        first = number("first", request.args.get("first", "0"))
        span_log2 = number("span_log2", request.args.get("span_log2", ""))
        count = number("count", request.args.get("count", ""))
        return jsonify(ranges=to_json(store.range_digests(first, span_log2, count)))

    @app.get("/v1/scrub")
    def scrub_status() -> Response:
        return jsonify(to_json(store.scrub_status()))

    @app.post("/v1/scrub")
    def control_scrub() -> Response:
        wish = from_json(ScrubWish, request.get_json(force=True))
        if wish.action == "stop":
            return jsonify(to_json(store.stop_scrub()))
        return jsonify(to_json(store.start_scrub(fresh=wish.action == "now", bytes_s=wish.bytes_s)))


def number(name: str, text: str) -> int:
    """A whole number from a path or a query; BadRequest names it."""
    if not _NUMBER.fullmatch(text):
        raise BadRequest(f"{name}: a number is wanted, got {text[:40]!r}")
    return int(text)
