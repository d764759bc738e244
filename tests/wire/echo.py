"""A room that does whatever the tests of wire/ need: it takes bodies, gives bytes and raises errors."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from flask import Response, jsonify, request

from wire.auth import ClusterKey
from wire.body import RequestBody
from wire.context import request_id
from wire.errors import ERRORS_BY_CODE, Unavailable
from wire.response import StreamResponse
from wire.server import RoomApp
from wire.service import create_service

SECRET = b"k" * 32

#: what the error route raises with, per class
DETAILS: dict[str, Any] = {
    "fid": 17,
    "offset": 12,
    "digests": ["sha256:a", "sha256:b"],
    "retry_after_s": 3,
    "note": "ü",
}


def build(
    *,
    key: bool = False,
    idle_timeout_s: float = 60.0,
    closed_path: str = "",
    refuse: str = "",
    ready_s: float = 0.0,
) -> RoomApp:
    """`ready_s`: how long a check of readiness takes."""
    if refuse:
        raise Unavailable(refuse)
    started = threading.Event()
    app = create_service("echo", key=ClusterKey(SECRET) if key else None, ready=lambda: time.sleep(ready_s))

    @app.route("/body", methods=["PUT", "POST", "PATCH"])
    def body() -> Response:
        """Read by readinto with a buffer of ?buffer= bytes; tells what came."""
        source = RequestBody(request.environ, idle_timeout_s=idle_timeout_s)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(int(request.args.get("buffer", 1 << 20))))
        total = 0
        while count := source.readinto(buffer):
            digest.update(buffer[:count])
            total += count
        return jsonify(length=total, sha256=digest.hexdigest(), announced=source.length)

    @app.route("/exact/<int:size>", methods=["PUT"])
    def exact(size: int) -> Response:
        buffer = bytearray(size)
        RequestBody(request.environ).read_exact_into(buffer)
        return jsonify(sha256=hashlib.sha256(buffer).hexdigest())

    @app.route("/all/<int:limit>", methods=["PUT"])
    def read_all(limit: int) -> Response:
        return jsonify(length=len(RequestBody(request.environ).read_all(limit)))

    @app.post("/json")
    def through_wsgi_input() -> Response:
        return jsonify(request.get_json())

    @app.route("/early", methods=["PUT"])
    def early() -> Response:
        raise Unavailable("refused before the body was read")

    @app.route("/part/<int:size>", methods=["PUT"])
    def part(size: int) -> Response:
        """Read only the first bytes of the body."""
        buffer = memoryview(bytearray(size))
        return jsonify(got=RequestBody(request.environ).readinto(buffer))

    @app.get("/bytes/<int:size>")
    def give(size: int) -> Response:
        """?fail=: raise after so many bytes; ?short=: end there."""
        fail, short = request.args.get("fail", type=int), request.args.get("short", type=int)

        def views() -> Iterator[memoryview]:
            block = memoryview(pattern(1 << 20))
            given = 0
            while given < size:
                if fail is not None and given >= fail:
                    raise Unavailable("the source broke")
                if short is not None and given >= short:
                    return
                count = min(len(block), size - given)
                yield block[:count]
                given += count

        return StreamResponse(views(), length=size)

    @app.route("/error/<code>", methods=["GET", "PUT"])
    def error(code: str) -> Response:
        raise ERRORS_BY_CODE[code](f"raised as {code}", **DETAILS)

    @app.get("/defect")
    def defect() -> Response:
        raise RuntimeError("secret inside")

    @app.get("/slow/<float:seconds>")
    def slow(seconds: float) -> Response:
        started.set()
        time.sleep(seconds)
        return jsonify(slept=seconds)

    @app.get("/started")
    def has_started() -> Response:
        return jsonify(started=started.is_set())

    @app.get("/who")
    def who() -> Response:
        return jsonify(pid=os.getpid(), request_id=request_id(), target=request.environ["RAW_URI"])

    def close() -> None:
        if closed_path:
            with open(closed_path, "w") as file:
                file.write("closed")

    return RoomApp(app, close)


def build_bare() -> RoomApp:
    """A plain WSGI app that reads 100 bytes of a body and neither the rest nor settles it."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        got = RequestBody(environ).readinto(memoryview(bytearray(100)))
        start_response("200 OK", [("Content-Length", "3")])
        return [b"%3d" % got]

    return RoomApp(app, lambda: None)


@cache
def pattern(size: int) -> bytes:
    """`size` bytes in which every 8-byte word tells its place."""
    return b"".join(i.to_bytes(8, "little") for i in range(-(-size // 8)))[:size]
