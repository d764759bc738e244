"""A request's body, read from the socket into the caller's memory.

gunicorn's wsgi.input copies every byte several times while it holds the GIL. RequestBody takes what the parser has
already buffered (at most a few KiB) and receives the rest straight into the caller's buffer; it keeps the parser's
books right, so that the next request on the connection is found where it begins. Under another WSGI server it reads
wsgi.input.
"""

from __future__ import annotations

import inspect
import socket
import struct
import threading
import time
from typing import Any, Protocol

from gunicorn.http.body import ChunkedReader, LengthReader

from wire.chunked import BodyCut, ChunkedDecoder
from wire.errors import BadRequest, BodyTimeout, PayloadTooLarge, SpeedyError, TruncatedBody

#: where a body leaves itself, so that the end of the request can settle what was not read (see settle)
ENVIRON_KEY = "speedy.body"

_SCRATCH_BYTES = 64 * 1024

#: while a body is dropped: the longest silence of its sender, and the time there is where too many are dropped at once
_DRAIN_SILENCE_S = 1.0
_HASTY_DRAIN_S = 0.01


class RequestBody:
    """Satisfies registry_driver.driver.ByteSource. Made at most once per request, before anything reads wsgi.input.

    `length` is the announced number of bytes (None: chunked, not announced), `received` what has come so far.
    `idle_timeout_s` is the longest silence of the sender. After an error the connection is not used for another
    request.
    """

    def __init__(self, environ: dict[str, Any], *, idle_timeout_s: float = 60.0) -> None:
        self.idle_timeout_s = idle_timeout_s
        self.received = 0
        self._failed = False
        self._given_up = ""
        self._parsed = environ["wsgi.input"]
        self._sock: socket.socket | None = environ.get("gunicorn.socket")
        reader = getattr(self._parsed, "reader", None)
        self._source: _Source
        self.length: int | None
        if self._sock is not None and isinstance(reader, LengthReader):
            self.length = reader.length
            self._source = _LengthSource(reader, self._sock)
        elif self._sock is not None and isinstance(reader, ChunkedReader) and _is_untouched(reader):
            self.length = None
            self._source = _ChunkedSource(self._parsed, reader, self._sock)
        else:
            announced = environ.get("CONTENT_LENGTH", "")
            chunked = "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()
            self.length = None if chunked else int(announced) if announced.isascii() and announced.isdigit() else 0
            self._source = _StreamSource(self._parsed, self.length)
        if self._sock is not None and self.length != 0:
            set_receive_timeout(self._sock, idle_timeout_s)
        self.ended = self.length == 0
        environ[ENVIRON_KEY] = self

    def readinto(self, buffer: memoryview) -> int:
        """Put up to len(buffer) bytes into `buffer`; their number, 0 at the proper end (or for an empty buffer).

        Raises TruncatedBody (details: received, announced) when the sender stopped early, BodyTimeout when it was
        silent for `idle_timeout_s` or given up for another, BadRequest for a malformed chunk.
        """
        if self.ended or not buffer:
            return 0
        if self._failed or self._given_up:
            self.abandon()
            raise self._truncated()
        try:
            count = self._source.readinto(buffer)
            if count == 0 and self.length is not None and self.received < self.length:
                raise self._truncated()
        except SpeedyError:
            self.abandon()
            raise
        except (BlockingIOError, TimeoutError) as error:
            self.abandon()
            raise BodyTimeout(f"the sender was silent for {self.idle_timeout_s:g} s") from error
        except (BodyCut, OSError) as error:
            self.abandon()
            raise self._truncated() from error
        self.received += count
        self.ended = count == 0 or self.received == self.length
        return count

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises PayloadTooLarge (before reading, if announced) when it has more than `limit` bytes."""
        if self.length is not None and self.length > limit:
            raise PayloadTooLarge(f"a body of {self.length} bytes; at most {limit} are taken", limit=limit)
        parts: list[bytes] = []
        total = 0
        scratch = memoryview(bytearray(min(_SCRATCH_BYTES, (limit if self.length is None else self.length) + 1)))
        while count := self.readinto(scratch):
            total += count
            if total > limit:
                raise PayloadTooLarge(f"a body of more than {limit} bytes", limit=limit)
            parts.append(bytes(scratch[:count]))
        return b"".join(parts)

    def read_exact_into(self, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the whole body. Raises TruncatedBody for a shorter one, BadRequest for a longer one."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            count = self.readinto(view[filled:])
            if count == 0:
                raise TruncatedBody(
                    f"a body of {self.received} bytes where {len(view)} were expected",
                    received=self.received,
                    announced=len(view),
                )
            filled += count
        # A chunked body is over only when its end has been seen.
        if not self.ended and self.readinto(memoryview(bytearray(1))):
            raise BadRequest(f"a body of more than the expected {len(view)} bytes")

    def drain(self, max_bytes: int = 1 << 20, timeout_s: float = 2.0) -> bool:
        """Read and drop the rest, so that an early answer reaches a client that is still sending.

        True when the body was consumed wholly. Else the connection ends with this request. Raises nothing.

        Who has fallen silent is not waited for, and only some threads of a server drain at a time: refused clients
        that send nothing must not take all of them. What such a client has sent is read still.
        """
        slots: threading.BoundedSemaphore | None = getattr(self._parsed, "speedy_drains", None)  # set by wire.worker
        if slots is None or self.ended or self._failed:
            return self._drain(max_bytes, timeout_s)
        if not slots.acquire(blocking=False):
            return self._drain(max_bytes, _HASTY_DRAIN_S)
        try:
            return self._drain(max_bytes, timeout_s)
        finally:
            slots.release()

    def _drain(self, max_bytes: int, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        scratch = memoryview(bytearray(_SCRATCH_BYTES))
        dropped = 0
        try:
            while not self.ended and not self._failed:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or dropped > max_bytes or (self.length or 0) - self.received > max_bytes - dropped:
                    break
                if self._sock is not None:
                    set_receive_timeout(self._sock, min(left_s, _DRAIN_SILENCE_S))
                dropped += self.readinto(scratch)
        except SpeedyError:
            pass
        if not self.ended:
            self.abandon()
        return self.ended

    def give_up(self, why: str) -> None:
        """From another thread: let what reads the body, or waits for it, see a BodyTimeout that says `why`. An answer
        still goes out. Raises OSError when the connection is gone."""
        self._given_up = why
        if self._sock is not None:
            self._sock.shutdown(socket.SHUT_RD)

    def abandon(self) -> None:
        """Nothing more is read: the connection must not be used for another request."""
        self._failed = True
        end_connection(self._parsed)

    def _truncated(self) -> TruncatedBody | BodyTimeout:
        if self._given_up:
            return BodyTimeout(self._given_up)
        announced = "" if self.length is None else f" of {self.length} announced"
        return TruncatedBody(
            f"the body ended after {self.received}{announced} bytes", received=self.received, announced=self.length
        )


def settle(environ: dict[str, Any]) -> None:
    """At the end of a request, before its answer: take what is left of the body, or let the answer say `Connection:
    close`.

    A client that is still sending would otherwise see a reset instead of the answer.
    """
    body = environ.get(ENVIRON_KEY)
    if body is None:
        reader = getattr(environ.get("wsgi.input"), "reader", None)
        unread = reader.length > 0 if isinstance(reader, LengthReader) else isinstance(reader, ChunkedReader)
        if not unread or (isinstance(reader, ChunkedReader) and not _is_untouched(reader)):
            return
        body = RequestBody(environ)
    if not body.ended:
        body.drain()


def end_connection(parsed: Any) -> None:
    """Make gunicorn close the connection after the present request; `parsed` is its body object (wsgi.input)."""
    if hasattr(parsed, "reader"):
        parsed.failed = True
    request = getattr(parsed, "speedy_request", None)  # set by wire.worker
    if request is not None:
        request.force_close()


def set_receive_timeout(sock: socket.socket, timeout_s: float) -> None:
    """Let recv on a blocking socket raise BlockingIOError after `timeout_s` of silence.

    SO_RCVTIMEO costs nothing per read; settimeout() makes Python poll before each one.
    """
    _set_timeout(sock, socket.SO_RCVTIMEO, timeout_s)


def set_send_timeout(sock: socket.socket, timeout_s: float) -> None:
    """The same for send: a reader that takes nothing for `timeout_s` ends in BlockingIOError."""
    _set_timeout(sock, socket.SO_SNDTIMEO, timeout_s)


def _set_timeout(sock: socket.socket, option: int, timeout_s: float) -> None:
    # struct timeval; all zero would mean "for ever"
    microseconds = max(int(timeout_s * 1_000_000), 1000)
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", *divmod(microseconds, 1_000_000)))


def _is_untouched(reader: Any) -> bool:
    return reader.parser is not None and inspect.getgeneratorstate(reader.parser) == inspect.GEN_CREATED


class _Source(Protocol):
    def readinto(self, view: memoryview) -> int: ...


class _LengthSource:
    """A body with Content-Length: `reader.length` is always what the parser would still have to take from the
    connection."""

    def __init__(self, reader: Any, sock: socket.socket) -> None:
        self._reader = reader
        self._sock = sock
        buffered = reader.unreader.take_buffered()
        # What lies beyond the body belongs to the next request.
        if len(buffered) > reader.length:
            reader.unreader.unread(buffered[reader.length :])
        self._buffered = memoryview(buffered)[: reader.length]
        reader.length -= len(self._buffered)

    def readinto(self, view: memoryview) -> int:
        if self._buffered:
            count = min(len(view), len(self._buffered))
            view[:count] = self._buffered[:count]
            self._buffered = self._buffered[count:]
            return count
        left = self._reader.length
        if left == 0:
            return 0
        count = self._sock.recv_into(view[:left])
        self._reader.length -= count
        return count


class _ChunkedSource:
    def __init__(self, parsed: Any, reader: Any, sock: socket.socket) -> None:
        self._parsed = parsed
        self._reader = reader
        self._decoder = ChunkedDecoder(sock, reader.req.unreader.take_buffered())
        # Until the end is seen only the decoder knows where the next request begins.
        parsed.failed = True

    def readinto(self, view: memoryview) -> int:
        count = self._decoder.readinto(view)
        if self._decoder.ended and self._reader.parser is not None:
            self._reader.req.unreader.unread(self._decoder.take_rest())
            self._reader.parser = None  # gunicorn's word for "consumed"
            self._parsed.failed = False
        return count


class _StreamSource:
    def __init__(self, stream: Any, length: int | None) -> None:
        self._stream = stream
        self._left = length

    def readinto(self, view: memoryview) -> int:
        wanted = len(view) if self._left is None else min(len(view), self._left)
        data: bytes = self._stream.read(wanted) if wanted else b""
        view[: len(data)] = data
        if self._left is not None:
            self._left -= len(data)
        return len(data)
