"""The OCI Distribution API at /v2/ over a Registry: finds the route, passes the gate, calls one handler, formats answer
or error.

All of /v2/ is one Flask rule: names contain slashes, so that routes are read from the right (registry_driver.routes),
and one table says what may be done with what.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flask import Flask, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule
from werkzeug.wrappers import Response

from registry_driver import blobs, listings, manifests, uploads
from registry_driver.admission import Admission, Gate
from registry_driver.calls import Answer, Call, answer
from registry_driver.cors import CrossOrigin
from registry_driver.names import printable
from registry_driver.oci_errors import MethodNotAllowed, RouteUnknown, error_answer
from registry_driver.registry import Registry
from registry_driver.routes import Noun, Route, parse_route
from wire import memory
from wire.body import RequestBody
from wire.errors import InternalError, Overloaded, SpeedyError, UploadConflict
from wire.response import StreamResponse
from wire.service import ROUTE_KEY, create_service
from wire.transfer import Transfer

_log = logging.getLogger("speedy.registry")

#: what the kernel's buffers take at once: a larger answer holds its place until it is sent
_ANSWER_BYTES_SMALL: Final = 64 * 1024
_VERSION_HEADER: Final = ("Docker-Distribution-Api-Version", "registry/2.0")

Handler = Callable[[Registry, Call], Response]
GateName = Literal["uploads", "downloads", "small", "manifests"]


@dataclass(frozen=True, slots=True)
class Action:
    run: Handler
    gate: GateName = "small"


_READ_BLOB = Action(blobs.get_blob, "downloads")
_READ_MANIFEST = Action(manifests.get_manifest)
_READ_UPLOAD = Action(uploads.get_upload)
_PING = Action(listings.ping)
_TAGS = Action(listings.list_tags)
_CATALOGUE = Action(listings.list_repositories)
_REFERRERS = Action(listings.list_referrers)

ACTIONS: Final[Mapping[Noun, Mapping[str, Action]]] = {
    "ping": {"GET": _PING, "HEAD": _PING},
    "catalogue": {"GET": _CATALOGUE, "HEAD": _CATALOGUE},
    "tags": {"GET": _TAGS, "HEAD": _TAGS},
    "referrers": {"GET": _REFERRERS, "HEAD": _REFERRERS},
    "blob": {"GET": _READ_BLOB, "HEAD": Action(blobs.get_blob), "DELETE": Action(blobs.delete_blob)},
    "manifest": {
        "GET": _READ_MANIFEST,
        "HEAD": _READ_MANIFEST,
        "PUT": Action(manifests.put_manifest, "manifests"),
        "DELETE": Action(manifests.delete_manifest),
    },
    "uploads": {"POST": Action(uploads.post_upload, "uploads")},
    "upload": {
        "GET": _READ_UPLOAD,
        "HEAD": _READ_UPLOAD,
        "PATCH": Action(uploads.patch_upload, "uploads"),
        "PUT": Action(uploads.put_upload, "uploads"),
        "DELETE": Action(uploads.delete_upload),
    },
}


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`idle_s`: longest silence of a sender. After an early error, up to `drain_bytes` are read and dropped for
    `drain_s` at most: clients that are still sending see the answer only when they have finished, and else a broken
    connection."""

    idle_s: float = 60.0
    drain_bytes: int = 256 << 20
    drain_s: float = 10.0


def create_app(
    registry: Registry,
    *,
    ready: Callable[[], None],
    admission: Admission,
    writable: Callable[[], None] | None = None,
    body: BodyLimits | None = None,
    cross_origin: CrossOrigin | None = None,
) -> Flask:
    """The WSGI application. `ready` tells for /readyz whether the rooms behind answer, `writable` whether bytes can be
    stored; `admission` stays the caller's to start and close."""
    app = create_service("registry", key=None, ready=ready, writable=writable)
    front = _Front(registry, admission, body or BodyLimits())
    app.view_functions["v2"] = front.serve
    for rule in ("/v2", "/v2/", "/v2/<path:rest>"):
        # Of any method: which ones there are depends on what the path names.
        app.url_map.add(Rule(rule, endpoint="v2", strict_slashes=True))
    # What never reaches a rule (other paths, odd methods) is answered in the API's form too.
    app.register_error_handler(HTTPException, _error_response)
    pages = cross_origin or CrossOrigin(())

    @app.after_request
    def complete(response: Response) -> Response:
        response.headers.add(*_VERSION_HEADER)
        pages.mark(request, response)
        return response

    return app


class _Front:
    """What happens around every handler."""

    def __init__(self, registry: Registry, admission: Admission, limits: BodyLimits) -> None:
        self._registry = registry
        self._limits = limits
        self._patience = admission.patience
        self._gates: Mapping[GateName, Gate] = {
            "uploads": admission.uploads,
            "downloads": admission.downloads,
            "small": admission.small,
            "manifests": admission.manifests,
        }

    def serve(self, rest: str = "") -> Response:
        body: RequestBody | None = None
        route: Route | None = None
        try:
            current = request._get_current_object()  # type: ignore[attr-defined]  # the proxy costs a lookup per use
            environ: dict[str, Any] = current.environ
            if current.method in ("POST", "PUT", "PATCH"):
                body = RequestBody(environ, idle_timeout_s=self._limits.idle_s)
            if environ.get("PATH_INFO", "").startswith("//"):
                # Flask takes it for one slash; a proxy that keeps people from paths may not.
                raise RouteUnknown("the registry has no such page")
            route = parse_route(rest, environ.get("RAW_URI", ""))
            environ[ROUTE_KEY] = f"/v2/ {route.noun}"
            if current.method == "OPTIONS":
                return answer(204, {"Allow": _allowed(route)})
            action = _action(route, current.method)
            response = self._run(action, Call(current, route.repository, route.reference, body))
        except SpeedyError as exc:
            # Overload is counted by its status; a line for each refusal would be load of its own.
            if exc.status >= 500 and not isinstance(exc, Overloaded):
                _log.warning(
                    "request failed", extra={"error": type(exc).__name__, "reason": exc.message, "details": exc.details}
                )
            response = self._refuse(exc, route, body)
        except MemoryError:
            memory.tell("a request")
            response = self._refuse(
                Overloaded("no memory for this request", retry_after_s=memory.RETRY_AFTER_S), route, body
            )
        except Exception as exc:  # noqa: BLE001 -- the edge: whatever went wrong is logged once and answered in the API's form
            _log.exception("defect", exc_info=exc)
            response = self._refuse(InternalError(), route, body)
        return response

    def _run(self, action: Action, call: Call) -> Response:
        # What brings no bytes (opening a session, mounting, closing) is short and must not wait behind slow senders.
        short = action.gate == "uploads" and call.body is not None and call.body.length == 0
        admitted = self._gates["small" if short else action.gate].enter(self._transfer(call))
        large = False
        try:
            response = action.run(self._registry, call)
            large = call.request.method == "GET" and (
                isinstance(response, StreamResponse) or (response.calculate_content_length() or 0) > _ANSWER_BYTES_SMALL
            )
        finally:
            if not large:
                admitted.release()
        if large:
            # The bytes go out after this function: the slot is taken until they have.
            response.call_on_close(admitted.release)
        return response

    def _transfer(self, call: Call) -> Transfer | None:
        sock = call.request.environ.get("gunicorn.socket")
        if sock is None:
            return None
        return Transfer(sock, call.body, now_s=time.monotonic(), window_s=self._patience.slow_window_s)

    def _refuse(self, exc: SpeedyError, route: Route | None, body: RequestBody | None) -> Response:
        if body is not None:
            body.drain(self._limits.drain_bytes, self._limits.drain_s)
        response = _error_response(exc)
        if isinstance(exc, UploadConflict) and route is not None:
            response.headers.update(uploads.session_headers(route.repository, route.reference, exc.offset))
        return response


def _action(route: Route, method: str) -> Action:
    actions = ACTIONS[route.noun]
    action = actions.get(method)
    if action is None:
        raise MethodNotAllowed(f"{printable(method)} is not supported here", allow=_allowed(route))
    return action


def _allowed(route: Route) -> str:
    return ", ".join(sorted({*ACTIONS[route.noun], "OPTIONS"}))


def _error_response(exc: Exception) -> Response:
    told = error_answer(exc)
    response = Answer(told.body, status=told.status, content_type="application/json")
    response.headers.update(told.headers)
    return response
