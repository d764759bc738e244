"""Answers whose bytes go from the caller's memory to the socket without a copy."""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flask import Response
from werkzeug.wsgi import ClosingIterator

log = logging.getLogger("speedy.response")


class StreamResponse(Response):
    """Sends headers, then each view of `views` as it is; `length` is the sum of their lengths and becomes
    Content-Length.

    Each view is used until the next one is asked for. `views` is closed in every case (if it has close()). When it
    raises, or gives another number of bytes than `length`, the connection is reset: a client never takes a part for
    the whole. Under a server other than ours the views go through WSGI as bytes.
    """

    def __init__(
        self,
        views: Iterable[memoryview],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        length: int,
    ) -> None:
        super().__init__(status=status, headers=dict(headers or {}))
        if "Content-Type" not in (headers or {}):
            self.headers["Content-Type"] = "application/octet-stream"
        self.headers["Content-Length"] = str(length)
        self.length = length
        self.sent = 0
        self._views: Iterable[memoryview] | None = views

    @classmethod
    def of_buffer(
        cls,
        view: memoryview,
        release: Callable[[], None],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> StreamResponse:
        """The bytes of one buffer; `release` is called exactly once, when they are sent or given up."""
        return cls(_OneBuffer(view, release), status=status, headers=headers, length=len(view))

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sock = environ.get("gunicorn.socket")
        try:
            write = start_response(self.status, self.headers.to_wsgi_list())
            views = self._views
            if views is not None and environ["REQUEST_METHOD"] != "HEAD" and self.status_code not in (204, 304):
                if sock is None:
                    return ClosingIterator(self._through_wsgi(iter(views)), [self.close])
                write(b"")  # sends the headers
                self._send(sock, iter(views))
        except BaseException:
            self.close()
            raise
        self.close()
        return []

    def close(self) -> None:
        super().close()
        views, self._views = self._views, None
        if views is not None and hasattr(views, "close"):
            views.close()

    def _send(self, sock: socket.socket, views: Iterator[memoryview]) -> None:
        while True:
            try:
                view = next(views, None)
            except Exception as error:
                raise self._aborted(sock, "the source failed") from error
            if view is None:
                break
            if self.sent + len(view) > self.length:
                raise self._aborted(sock, "the source gave too many bytes")
            try:
                sock.sendall(view)
            except BlockingIOError as error:
                raise self._aborted(sock, "the reader takes nothing") from error
            self.sent += len(view)
        if self.sent != self.length:
            raise self._aborted(sock, "the source gave too few bytes")

    def _aborted(self, sock: socket.socket, why: str) -> ConnectionResetError:
        """Mark the connection to be reset (wire.worker closes it at once), log why, and give the error that ends the
        request."""
        log.error("answer aborted", extra={"why": why, "sent": self.sent, "length": self.length}, exc_info=True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # gunicorn passes over this error number in silence; it has been logged here.
        return ConnectionResetError(errno.ECONNRESET, f"answer aborted after {self.sent} of {self.length} bytes: {why}")

    def _through_wsgi(self, views: Iterator[memoryview]) -> Iterator[bytes]:
        for view in views:
            self.sent += len(view)
            yield bytes(view)
        if self.sent != self.length:
            raise RuntimeError(f"the source gave {self.sent} of {self.length} bytes")


class _OneBuffer:
    def __init__(self, view: memoryview, release: Callable[[], None]) -> None:
        self._view: memoryview | None = view
        self._release: Callable[[], None] | None = release

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        view, self._view = self._view, None
        if view is None:
            raise StopIteration
        return view

    def close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()
