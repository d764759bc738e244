"""How a call travels: requests' HTTPAdapter with what a transfer of large buffers needs besides.

Bodies are received into the caller's memory; sending has a time-out of its own; and errors, which the libraries wrap
several times, can be told apart.
"""

from __future__ import annotations

import contextvars
import json as json_format
import select
import time
from collections.abc import Callable, Iterator
from http.client import HTTPResponse as PlainResponse
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError

from wire.errors import DeadlineExceeded, TruncatedBody, Unavailable

#: largest JSON answer that is read, bytes
ANSWER_BYTES_MAX = 64 * 1024 * 1024

#: longest time that sending one request may take (urllib3 would send under the connect time-out: one second per chunk)
send_timeout_s: contextvars.ContextVar[float] = contextvars.ContextVar("speedy_send_timeout_s", default=30.0)

#: asked by calls that have waited for SILENCE_S, and again after each further SILENCE_S: raises StandsStill when the
#: server does not live (wire.pulse). None: the call waits as long as it may
watch: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar("speedy_watch", default=None)
SILENCE_S = 1.0

#: an answer that has begun lies ready in its server: longest silence in it while the call is watched
ANSWER_SILENCE_S = 3.0


class StandsStill(Exception):
    """The server at the other end answers nothing at all."""


def silence_max_s(timeout_s: float) -> float:
    """The longest silence in the middle of an answer to a call that may take `timeout_s`."""
    return timeout_s if watch.get() is None else min(timeout_s, ANSWER_SILENCE_S)


class Answer:
    """An answer whose body is still on the connection."""

    def __init__(self, where: str, response: requests.Response, timeout_s: float) -> None:
        self.where = where
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._timeout_s = timeout_s
        self._silence_max_s = silence_max_s(timeout_s)
        self._deadline = time.monotonic() + timeout_s

    def json(self) -> Any:
        body = self.body()
        if not body:
            return None
        try:
            return json_format.loads(body)
        except ValueError as error:
            raise Unavailable(f"{self.where}: the answer is not JSON") from error

    def fill(self, view: memoryview) -> None:
        announced = self.headers.get("content-length", "")
        if announced != str(len(view)):
            raise TruncatedBody(
                f"{self.where}: {announced or 'an unknown number of'} bytes where {len(view)} were asked for",
                received=0,
                announced=len(view),
            )
        # The plain response below urllib3's: its readinto() receives into our memory, urllib3's own copies.
        plain = self._response.raw._original_response
        assert isinstance(plain, PlainResponse)
        filled = 0
        try:
            while filled < len(view):
                count = plain.readinto(view[filled:])
                if count == 0:
                    break
                filled += count
                self._check_deadline()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{self.where}: silent for {self._silence_max_s:g} s in the answer") from error
        except OSError as error:
            raise Unavailable(f"{self.where}: {reason(error)} after {filled} bytes") from error
        if filled < len(view):
            raise TruncatedBody(
                f"{self.where}: the answer ended after {filled} of {len(view)} bytes",
                received=filled,
                announced=len(view),
            )

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else close it."""
        raw = self._response.raw
        plain = raw._original_response
        if not (plain is None or plain.isclosed()):
            raw.close()
        raw.release_conn()

    def body(self) -> bytes:
        """The whole body, bounded by ANSWER_BYTES_MAX and the time-out."""
        parts: list[bytes] = []
        total = 0
        try:
            while part := self._response.raw.read(1 << 20, decode_content=False):
                total += len(part)
                if total > ANSWER_BYTES_MAX:
                    raise Unavailable(f"{self.where}: an answer of more than {ANSWER_BYTES_MAX} bytes")
                parts.append(part)
                self._check_deadline()
        except (ReadTimeoutError, TimeoutError) as error:
            raise DeadlineExceeded(f"{self.where}: silent for {self._silence_max_s:g} s in the answer") from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{self.where}: {reason(error)} in the answer") from error
        return b"".join(parts)

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise DeadlineExceeded(f"{self.where}: the answer took more than {self._timeout_s:g} s")


class _Connection(HTTPConnection):
    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        check = watch.get()
        if check is None:
            self.sock.settimeout(send_timeout_s.get())
            super().send(data)
        else:
            self._send_watched(memoryview(data).cast("B"), check)

    def _send_watched(self, left: memoryview, check: Callable[[], None]) -> None:
        deadline_s = time.monotonic() + send_timeout_s.get()
        while left:
            self.sock.settimeout(SILENCE_S)
            try:
                left = left[self.sock.send(left) :]
            except TimeoutError:
                check()
            if left and time.monotonic() > deadline_s:
                raise TimeoutError

    def getresponse(self) -> Any:
        check = watch.get()
        if check is None:
            return super().getresponse()
        assert self.timeout is not None, "calls have time-outs"
        sock, timeout_s = self.sock, self.timeout
        deadline_s = time.monotonic() + timeout_s
        begun = select.poll()
        begun.register(sock, select.POLLIN)
        while not begun.poll(1000 * max(0.0, min(SILENCE_S, deadline_s - time.monotonic()))):
            if time.monotonic() >= deadline_s:
                raise TimeoutError
            check()
        self.timeout = silence_max_s(timeout_s)
        return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class Adapter(HTTPAdapter):
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool}


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it wraps; requests and urllib3 nest through args, `reason` and the exception chain."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        inner = waiting.pop()
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        wrapped = (inner.__cause__, inner.__context__, getattr(inner, "reason", None), *inner.args)
        waiting += [each for each in wrapped if isinstance(each, BaseException)]


def was_cut(error: BaseException) -> bool:
    """The connection was there and ended before an answer (so: perhaps a kept one that had gone stale)."""
    return any(
        isinstance(each, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)) for each in causes(error)
    )


def was_refused(error: BaseException) -> bool:
    """There was no connection at all, so that nothing was sent."""
    return any(isinstance(each, (ConnectionRefusedError, NewConnectionError)) for each in causes(error))


def sending_timed_out(error: BaseException) -> bool:
    return any(isinstance(each, TimeoutError) for each in causes(error))


def reason(error: BaseException) -> str:
    """The innermost system error in words; the libraries' own texts hold object addresses."""
    for each in causes(error):
        if isinstance(each, OSError) and each.strerror and not isinstance(each, requests.RequestException):
            return each.strerror
    return "the connection ended before the answer" if was_cut(error) else type(error).__name__
