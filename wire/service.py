"""What every room's WSGI app has in common: key check, errors as JSON, request ids, log lines, metrics, health.

    app = create_service("chunkserver", key=key, ready=store.stat)
    @app.put("/v1/chunks/<int:fid>") ...

A room adds metrics of its own to metrics_of(app).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask import Flask, Response, jsonify, request
from gunicorn.http.errors import NoMoreData, ParseException
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from werkzeug.exceptions import HTTPException

from wire import memory
from wire.auth import OPEN_PATHS, ClusterKey
from wire.body import ENVIRON_KEY, settle
from wire.checks import CachedCheck
from wire.context import REQUEST_ID_HEADER, bind_request_id
from wire.errors import BadRequest, BodyTimeout, InternalError, Overloaded, SpeedyError, TruncatedBody
from wire.http import error_body
from wire.version import version

#: where a request's route is kept for metrics; an app whose one rule serves many kinds of things says which it was
ROUTE_KEY = "speedy.route"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

#: readiness is asked often, and by anybody: how long an answer is kept
READY_KEEP_S = 0.5
#: a check that has gone on for so long counts as failed for who asks meanwhile. /healthz shares its few threads with
#: /readyz: only one of them ever waits for a database that hangs
READY_LATE_S = 2.0

StartResponse = Callable[..., Any]


def create_service(
    name: str, *, key: ClusterKey | None, ready: Callable[[], object], writable: Callable[[], object] | None = None
) -> Flask:
    """A Flask app for the room `name`, to which the room adds its routes.

    `key`: every path but OPEN_PATHS asks for its signature (None: no check). `ready` is called for /readyz, by one
    request at a time, and raises a SpeedyError that says what is missing. `writable`: the same for writes alone, told
    in the body of /readyz and in metrics. It changes no status: a full store serves all that it has, and a balancer
    that turned away from it would take the pulls away too.
    """
    check_ready = CachedCheck(ready, READY_KEEP_S, late_s=READY_LATE_S)
    check_writes = None if writable is None else CachedCheck(writable, READY_KEEP_S, late_s=READY_LATE_S, detached=True)
    app = Flask(__name__, static_folder=None, template_folder=None)
    app.name = name
    app.url_map.merge_slashes = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.json.compact = True  # type: ignore[attr-defined]
    metrics = _Metrics(name, check_writes)
    app.extensions["speedy.metrics"] = metrics.registry
    log = logging.getLogger(f"speedy.{name}")

    @app.before_request
    def check_key() -> None:
        if request.url_rule is not None:
            request.environ[ROUTE_KEY] = request.url_rule.rule
        if key is not None and request.path not in OPEN_PATHS:
            key.verify(request.headers.get("Authorization"), request.method, _target())

    @app.after_request
    def settle_body(response: Response) -> Response:
        settle(request.environ)
        return response

    @app.errorhandler(SpeedyError)
    def answer_error(error: SpeedyError) -> Response:
        if error.code == InternalError.code:
            log.error("internal error", exc_info=error)
        return error_response(error)

    @app.errorhandler(HTTPException)
    def answer_http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = (error.name or "error").lower().replace(" ", "_")
        response = jsonify(error={"code": code, "message": error.description or error.name, "details": {}})
        response.status_code = status
        for header, value in error.get_headers():
            if header.lower() in ("allow", "location", "retry-after", "content-range"):
                response.headers[header] = value
        return response

    @app.errorhandler(Exception)
    def answer_unknown(error: Exception) -> Response:
        found = _body_error(error) or _no_memory(error)
        if found is None:
            log.error("unexpected %s", type(error).__name__, exc_info=error)
            found = InternalError()
        return error_response(found)

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok", service=name, version=version())

    @app.get("/readyz")
    def readyz() -> Response:
        try:
            check_ready()
        except SpeedyError as error:
            response = error_response(error)
            response.status_code = 503
            return response
        return jsonify(status="ready", service=name, **_told_of_writes(check_writes))

    @app.get("/metrics")
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.wsgi_app = _Observed(app.wsgi_app, log, metrics)  # type: ignore[method-assign]
    return app


def metrics_of(app: Flask) -> CollectorRegistry:
    """Where the room's own metrics belong: each app has a registry of its own, so that several live in one process."""
    registry: CollectorRegistry = app.extensions["speedy.metrics"]
    return registry


def error_response(error: SpeedyError) -> Response:
    """The JSON answer for `error`; Overloaded carries Retry-After."""
    response = jsonify(error_body(error))
    response.status_code = error.status
    if isinstance(error, Overloaded):
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def _told_of_writes(check_writes: Callable[[], None] | None) -> dict[str, Any]:
    if check_writes is None:
        return {}
    try:
        check_writes()
    except SpeedyError as error:
        return {"writes": "refused", "reason": {"code": error.code, "message": error.message}}
    return {"writes": "accepted"}


def _target() -> str:
    """Path and query exactly as they came over the wire."""
    raw = request.environ.get("RAW_URI") or request.environ.get("REQUEST_URI") or request.full_path
    return str(raw)


def _body_error(error: Exception) -> SpeedyError | None:
    """What gunicorn raises when a body read through wsgi.input (not through RequestBody) is bad, cut or silent."""
    if isinstance(error, ParseException):
        return BadRequest(str(error))
    if isinstance(error, NoMoreData):
        return TruncatedBody("the body ended early")
    if isinstance(error, BlockingIOError) and ENVIRON_KEY not in request.environ:
        return BodyTimeout("the sender was silent for too long")
    return None


def _no_memory(error: Exception) -> SpeedyError | None:
    if not isinstance(error, MemoryError):
        return None
    memory.tell("a request")
    return Overloaded("no memory for this request", retry_after_s=memory.RETRY_AFTER_S)


class _Metrics:
    def __init__(self, name: str, check_writes: Callable[[], None] | None) -> None:
        self.registry = CollectorRegistry()
        if check_writes is not None:
            Gauge(
                "speedy_writes_accepted", "1 while writes are taken, 0 while not", ("room",), registry=self.registry
            ).labels(name).set_function(lambda: float(_told_of_writes(check_writes)["writes"] == "accepted"))
        self.requests = Counter(
            "speedy_requests",
            "Requests answered",
            ("room", "route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "speedy_request_seconds",
            "From a request's head to the end of its answer",
            ("room", "route", "method"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.bytes = Counter("speedy_body_bytes", "Bytes of bodies", ("room", "direction"), registry=self.registry)
        self.in_flight = Gauge(
            "speedy_requests_in_flight", "Requests that are being answered", ("room",), registry=self.registry
        ).labels(name)
        self.bytes_in = self.bytes.labels(name, "in")
        self.bytes_out = self.bytes.labels(name, "out")
        self.room = name
        ProcessCollector(registry=self.registry)


class _Observed:
    """WSGI wrapper: binds the request id, counts, and writes one log line when the answer has been given."""

    def __init__(self, inner: Any, log: logging.Logger, metrics: _Metrics) -> None:
        self._inner = inner
        self._log = log
        self._metrics = metrics

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        started_s = time.perf_counter()
        self._metrics.in_flight.inc()
        seen: dict[str, Any] = {"status": 0, "bytes_out": None}
        with bind_request_id(environ.get("HTTP_X_REQUEST_ID")) as bound:

            def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
                seen["status"] = int(status[:3])
                seen["bytes_out"] = next((int(v) for h, v in headers if h.lower() == "content-length"), None)
                return start_response(status, [*headers, (REQUEST_ID_HEADER, bound)], exc_info)

            try:
                chunks = self._inner(environ, start)
            except BaseException:
                self._finish(environ, seen, started_s, aborted=True)
                raise
            if isinstance(chunks, list | tuple) and not chunks:
                # What StreamResponse returns: everything is on the wire already.
                self._finish(environ, seen, started_s)
                return chunks
        return _Watched(chunks, lambda: self._finish_bound(bound, environ, seen, started_s))

    def _finish_bound(self, bound: str, environ: dict[str, Any], seen: dict[str, Any], started_s: float) -> None:
        with bind_request_id(bound):
            self._finish(environ, seen, started_s)

    def _finish(
        self, environ: dict[str, Any], seen: dict[str, Any], started_s: float, *, aborted: bool = False
    ) -> None:
        took_s = time.perf_counter() - started_s
        metrics = self._metrics
        route = environ.get(ROUTE_KEY, "unmatched")
        method = environ["REQUEST_METHOD"]
        known = method if method in _METHODS else "other"
        status = seen["status"]
        body = environ.get(ENVIRON_KEY)
        announced = environ.get("CONTENT_LENGTH", "")
        bytes_in = body.received if body is not None else int(announced) if announced.isdigit() else None
        bytes_out = None if method == "HEAD" else seen["bytes_out"]
        metrics.in_flight.dec()
        metrics.requests.labels(metrics.room, route, known, "aborted" if aborted else str(status)).inc()
        metrics.seconds.labels(metrics.room, route, known).observe(took_s)
        if bytes_in:
            metrics.bytes_in.inc(bytes_in)
        if bytes_out and not aborted:
            metrics.bytes_out.inc(bytes_out)
        path = environ.get("PATH_INFO", "")
        level = logging.DEBUG if path in OPEN_PATHS else logging.INFO
        if self._log.isEnabledFor(level):
            told = {"method": method, "path": path, "status": status}
            fields = {
                **told,
                "room": metrics.room,
                "ms": round(took_s * 1000, 1),
                "bytes_in": bytes_in,
                "bytes_out": bytes_out,
            }
            if aborted:
                fields["aborted"] = True
            self._log.log(level, "%(method)s %(path)s %(status)s", told, extra=fields)


class _Watched:
    """An answer's body that tells when it has been given out (PEP 3333: close() is always called)."""

    def __init__(self, chunks: Iterable[bytes], on_close: Callable[[], None]) -> None:
        self._chunks = chunks
        self._on_close: Callable[[], None] | None = on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        try:
            if hasattr(self._chunks, "close"):
                self._chunks.close()
        finally:
            on_close, self._on_close = self._on_close, None
            if on_close is not None:
                on_close()
