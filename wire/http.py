"""Errors as JSON and back, and the client that all rooms call each other with.

    HTTP/1.1 404 ...          {"error": {"code": "chunk_not_found", "message": "no chunk 17", "details": {"fid": 17}}}

error_body() and raise_for() are the one translation: what is raised in a room arrives in its caller as the same class
with the same details. ServiceClient goes through requests' HTTPAdapter, not through a Session: a Session keeps
cookies, redirects and settings that threads would share; the adapter's only shared state is urllib3's connection
pool, which is thread-safe.
"""

from __future__ import annotations

import json as json_format
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from urllib3.exceptions import HTTPError

from wire.auth import ClusterKey
from wire.context import REQUEST_ID_HEADER, request_id
from wire.errors import (
    ERRORS_BY_CODE,
    BadRequest,
    BodyTimeout,
    Conflict,
    DeadlineExceeded,
    InternalError,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RangeNotSatisfiable,
    SpeedyError,
    StorageFull,
    Unauthorized,
    Unavailable,
)
from wire.transport import (
    Adapter,
    Answer,
    StandsStill,
    reason,
    send_timeout_s,
    sending_timed_out,
    was_cut,
    was_refused,
)

Buffer = bytes | bytearray | memoryview

#: CRC-32C of a payload or of the part that is sent, 8 hexadecimal digits, in both directions
CRC_HEADER = "Speedy-Crc32c"

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0

# What a status means when no code of ours came with it: a proxy's answer, or the server's own refusal.
_BY_STATUS: dict[int, type[SpeedyError]] = {
    401: Unauthorized,
    404: NotFound,
    408: DeadlineExceeded,
    409: Conflict,
    413: PayloadTooLarge,
    416: RangeNotSatisfiable,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
    507: StorageFull,
}

_PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*")


def error_body(error: SpeedyError) -> dict[str, Any]:
    """The JSON object of an error answer. An internal error tells nothing of the inside."""
    if error.code == InternalError.code:
        return {"error": {"code": error.code, "message": "internal error", "details": {}}}
    return {"error": {"code": error.code, "message": error.message, "details": error.details}}


def raise_for(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise what an answer with an error status stands for; nothing for 1xx to 3xx."""
    if status < 400:
        return
    told = _told(body)
    kind = ERRORS_BY_CODE.get(told.get("code", ""))
    if kind is BodyTimeout:
        kind = DeadlineExceeded  # it was this side that stalled, or the line between: trying again may help
    message = told.get("message")
    details = told.get("details")
    if kind is None:
        fallback = BadRequest if status < 500 else InternalError
        kind = _BY_STATUS.get(status, fallback)
        details = {}
    if not isinstance(message, str) or not message:
        message = f"answered with status {status}"
    if not isinstance(details, dict):
        details = {}
    retry_after = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    if kind is Overloaded and retry_after.isdigit():
        details.setdefault("retry_after_s", int(retry_after))
    raise kind(message, **{name: value for name, value in details.items() if name not in ("self", "message")})


class ServiceClient:
    """Calls one room at `base_url` (http://host:port) in the name of the cluster. Thread-safe; connections are kept
    and shared.

    Errors: network trouble is Unavailable, a time-out DeadlineExceeded, an error answer the exception raised behind it.
    `connect_timeout_s` bounds connecting, `read_timeout_s` each silence of the server and each whole transfer of a
    body. `attempts_max` counts tries at connecting and at retryable errors (Overloaded, Unavailable), with growing
    pauses; a time-out of this side is not tried again. Besides, a kept connection that the server closed meanwhile is
    replaced once. All of that is safe because every internal call may be repeated.
    """

    def __init__(
        self,
        base_url: str,
        key: ClusterKey,
        *,
        connect_timeout_s: float = 1.0,
        read_timeout_s: float = 30.0,
        attempts_max: int = 3,
        pool_max: int = 32,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError(f"{base_url!r} is not of the form http://host:port")
        self.base_url = base_url.rstrip("/")
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self.attempts_max = attempts_max
        self._key = key
        self._adapter = Adapter(pool_connections=1, pool_maxsize=pool_max, max_retries=0)

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        attempts_max: int | None = None,
        read_timeout_s: float | None = None,
        fresh: bool = False,
    ) -> Any:
        """Send `json` (None: no body); the decoded JSON answer, None when it has no body.

        `path` is percent-encoded by the caller where it needs to be; `params` are encoded here, those that are None
        left out. `fresh`: over a connection of its own, for calls that must know whether they were sent twice: a kept
        connection that breaks may or may not have carried the request.
        """
        payload = None if json is None else json_format.dumps(json, separators=(",", ":")).encode()
        headers = {} if payload is None else {"Content-Type": "application/json"}
        attempts_max = self.attempts_max if attempts_max is None else attempts_max
        with self._call(
            method,
            _target(path, params),
            headers,
            payload,
            attempts_max=attempts_max,
            read_timeout_s=read_timeout_s,
            fresh=fresh,
        ) as answer:
            return answer.json()

    def upload(
        self,
        method: str,
        path: str,
        payload: Buffer,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        attempts_max: int = 1,
        read_timeout_s: float | None = None,
    ) -> Any:
        """Send `payload` without copying it; the decoded JSON answer, None when it has no body."""
        named = {"Content-Type": "application/octet-stream", **(headers or {})}
        with self._call(
            method, _target(path, params), named, payload, attempts_max=attempts_max, read_timeout_s=read_timeout_s
        ) as answer:
            return answer.json()

    def read_into(
        self,
        path: str,
        buffer: memoryview | bytearray,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        attempts_max: int = 1,
        read_timeout_s: float | None = None,
    ) -> Mapping[str, str]:
        """GET exactly len(buffer) bytes into `buffer`; the answer's headers, with names in lower case.

        Raises TruncatedBody when the answer has fewer or more bytes; the buffer's contents are undefined after any
        error.
        """
        with self._call(
            "GET",
            _target(path, params),
            dict(headers or {}),
            None,
            attempts_max=attempts_max,
            read_timeout_s=read_timeout_s,
        ) as answer:
            answer.fill(memoryview(buffer).cast("B"))
            return answer.headers

    def close(self) -> None:
        """Close the kept connections."""
        self._adapter.close()

    @contextmanager
    def _call(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        payload: Buffer | None,
        *,
        attempts_max: int,
        read_timeout_s: float | None,
        fresh: bool = False,
    ) -> Iterator[Answer]:
        timeout_s = self.read_timeout_s if read_timeout_s is None else read_timeout_s
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._attempt(self._request(method, target, headers, payload, fresh), timeout_s, fresh)
                break
            except _TimedOut as error:
                raise DeadlineExceeded(str(error)) from error.__cause__
            except SpeedyError as error:
                if not error.retryable or attempt >= attempts_max:
                    raise
                time.sleep(_pause_s(attempt, error))
        try:
            yield answer
        finally:
            answer.close()

    def _attempt(self, request: requests.PreparedRequest, timeout_s: float, fresh: bool) -> Answer:
        """One try, or two when the first met a kept connection that the server had closed."""
        assert request.url is not None
        where = f"{request.method} {request.url.partition('?')[0]}"
        token = send_timeout_s.set(timeout_s)
        adapter = Adapter(pool_connections=1, pool_maxsize=1, max_retries=0) if fresh else self._adapter
        try:
            for last in (fresh, True):
                try:
                    response = adapter.send(request, stream=True, timeout=(self.connect_timeout_s, timeout_s))
                    break
                except StandsStill as error:
                    raise _TimedOut(f"{where}: {error}") from error
                except requests.ConnectTimeout as error:
                    raise _unsent(
                        DeadlineExceeded(f"{where}: no connection within {self.connect_timeout_s:g} s")
                    ) from error
                except requests.Timeout as error:
                    raise _TimedOut(f"{where}: no answer within {timeout_s:g} s") from error
                except requests.ConnectionError as error:
                    if sending_timed_out(error):
                        raise _TimedOut(f"{where}: the body was not taken within {timeout_s:g} s") from error
                    if was_refused(error):
                        raise _unsent(Unavailable(f"{where}: {reason(error)}")) from error
                    if last or not was_cut(error):
                        raise Unavailable(f"{where}: {reason(error)}") from error
                except (requests.RequestException, HTTPError) as error:
                    raise Unavailable(f"{where}: {reason(error)}") from error
        finally:
            send_timeout_s.reset(token)
        answer = Answer(where, response, timeout_s)
        if response.status_code >= 300:
            try:
                raise_for(answer.status, answer.headers, answer.body())
                raise Unavailable(f"{where}: unexpected status {answer.status}")
            finally:
                answer.close()
        return answer

    def _request(
        self, method: str, target: str, headers: dict[str, str], payload: Buffer | None, fresh: bool
    ) -> requests.PreparedRequest:
        request = requests.PreparedRequest()
        request.method = method
        # Not through prepare_url(): it may encode anew, and what is signed must be what goes over the wire.
        request.url = self.base_url + target
        request.headers = requests.structures.CaseInsensitiveDict(headers)
        request.headers["Authorization"] = self._key.sign(method, target)
        request.headers["Accept-Encoding"] = "identity"
        if fresh:
            request.headers["Connection"] = "close"
        bound = request_id()
        if bound:
            request.headers[REQUEST_ID_HEADER] = bound
        if payload is not None:
            view = memoryview(payload).cast("B")
            request.headers["Content-Length"] = str(len(view))
            # urllib3 hands a buffer to sendall() as it is; any number of times, so a retry sends it again.
            request.body = view  # type: ignore[assignment]
        elif method in ("POST", "PUT", "PATCH"):
            request.headers["Content-Length"] = "0"
        return request


class _TimedOut(Exception):
    """This side's time is used up: not tried again."""


def _unsent(error: SpeedyError) -> SpeedyError:
    error.unsent = True
    return error


def _told(body: bytes) -> dict[str, Any]:
    """code, message and details of an error body in our form, or in the OCI form that the server's own refusals
    have."""
    try:
        decoded = json_format.loads(body)
        told = decoded["error"] if "error" in decoded else decoded["errors"][0]
    except (ValueError, LookupError, TypeError):
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("code"), str) else {}


def _target(path: str, params: Mapping[str, Any] | None) -> str:
    if not _PATH.fullmatch(path) or path.startswith("//"):
        raise ValueError(f"{path!r} is not a percent-encoded absolute path")
    query = urlencode({name: value for name, value in (params or {}).items() if value is not None})
    return f"{path}?{query}" if query else path


def _pause_s(attempt: int, error: SpeedyError) -> float:
    wanted: float = BACKOFF_FIRST_S * 2 ** (attempt - 1)
    if isinstance(error, Overloaded):
        wanted = max(wanted, error.retry_after_s)
    # Jitter: callers that failed together must not come back together.
    return min(wanted, BACKOFF_MAX_S) * random.uniform(0.5, 1.0)  # noqa: S311
