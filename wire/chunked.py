"""Decoder of the chunked transfer coding (RFC 9112 section 7.1), from a socket into the caller's memory.

    8000 CRLF <32,768 bytes> CRLF 8000 CRLF <32,768 bytes> CRLF ... 0 CRLF [trailers] CRLF

Container clients send pieces of 32 KiB. One read takes many of them: the kernel is given the caller's memory and
small gaps in turn, laid out as if every next piece were as long as this one. Where that was right, payload lies in
its place and was copied by nobody but the kernel (without the GIL). Where it was wrong, what came is moved to a
staging buffer and parsed.
"""

from __future__ import annotations

import re
import socket

from wire.errors import BadRequest

#: longest chunk-size line with its extensions, and all extensions of one body together, bytes
SIZE_LINE_BYTES_MAX = 1024
EXTENSION_BYTES_MAX = 64 * 1024

#: longest trailer section, bytes (trailers are read and dropped)
TRAILER_BYTES_MAX = 16 * 1024

STAGING_BYTES = 256 * 1024

# From this size on a piece is received straight into the caller's memory.
_DIRECT_BYTES_MIN = 8 * 1024

# What is read into staging where only the next size line is wanted: payload behind it would have to be copied.
_LINE_READ_BYTES = 256

_PIECES_MAX = 32

# CRLF, a size line without extensions, CRLF
_GAP_BYTES_MAX = 2 + 15 + 2

# 15 hex digits: no size overflows anything. Extensions: visible text, blanks, obs-text; never CR or LF.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyCut(Exception):
    """The connection ended inside a body."""


class ChunkedDecoder:
    """Gives the payload of one chunked body.

    `buffered` is what was already read from the socket behind the request's head. Raises BadRequest for a malformed
    body, BodyCut when the sender ends the connection before the body's end. What recv raises (time-outs, resets)
    passes through.
    """

    def __init__(self, sock: socket.socket, buffered: bytes) -> None:
        self._sock = sock
        self._staging = memoryview(bytearray(max(STAGING_BYTES, len(buffered))))
        self._staging[: len(buffered)] = buffered
        self._start = 0
        self._stop = len(buffered)
        self._left = 0  # bytes of the present piece that are still to come
        self._size = _DIRECT_BYTES_MIN  # length of the present piece; a guess before the first
        self._between = b""  # CRLF, size line, CRLF between two pieces of this length; empty when not to be guessed
        self._crlf_due = False  # the present piece's closing CRLF has not been read
        self._extension_bytes = 0
        self._gaps = memoryview(bytearray(_PIECES_MAX * _GAP_BYTES_MAX))
        self._error: Exception | None = None
        self.ended = False

    def readinto(self, view: memoryview) -> int:
        """Fill `view` with what is there; waits only for the first byte. 0 at the proper end of the body."""
        if self._error is not None:
            raise self._error
        filled = 0
        while filled < len(view) and not self.ended:
            if self._left == 0:
                try:
                    if not self._next_piece(wait=filled == 0):
                        break
                except Exception as error:
                    # Payload that came before the fault is given first: its prefix may become durable.
                    self._error = error
                    if filled:
                        return filled
                    raise
            elif self._stop > self._start:
                count = min(self._stop - self._start, self._left, len(view) - filled)
                view[filled : filled + count] = self._staging[self._start : self._start + count]
                self._start += count
                self._left -= count
                filled += count
            elif filled:
                break
            elif self._size < _DIRECT_BYTES_MIN:
                self._refill(STAGING_BYTES)
            else:
                filled = self._receive(view)
        return filled

    def take_rest(self) -> bytes:
        """Bytes that were read behind the body's end: the start of the next request."""
        rest = bytes(self._staging[self._start : self._stop])
        self._start = self._stop = 0
        return rest

    def _next_piece(self, *, wait: bool) -> bool:
        """Step to the next piece, or to the end. False: its size line is not there yet and `wait` is false."""
        if not wait and not self._line_is_staged():
            return False
        if self._crlf_due:
            self._skip_crlf()
        line = self._line(SIZE_LINE_BYTES_MAX)
        parts = _SIZE_LINE.fullmatch(line)
        if parts is None:
            raise BadRequest(f"chunked body: bad size line {line[:32]!r}")
        self._extension_bytes += len(parts[2] or b"")
        if self._extension_bytes > EXTENSION_BYTES_MAX:
            raise BadRequest(f"chunked body: more than {EXTENSION_BYTES_MAX} bytes of chunk extensions")
        size = int(parts[1], 16)
        if size == 0:
            self._skip_trailers()
            self.ended = True
            return True
        self._size = self._left = size
        self._crlf_due = True
        self._between = b"" if parts[2] else b"\r\n" + line + b"\r\n"
        return True

    def _skip_crlf(self) -> None:
        while self._stop - self._start < 2:
            self._refill(self._line_read_bytes())
        if bytes(self._staging[self._start : self._start + 2]) != b"\r\n":
            raise BadRequest("chunked body: a piece does not end with CRLF where its size says")
        self._start += 2
        self._crlf_due = False

    def _skip_trailers(self) -> None:
        seen = 0
        while line := self._line(TRAILER_BYTES_MAX - seen):
            seen += len(line) + 2
            if not _TRAILER_LINE.fullmatch(line):
                raise BadRequest(f"chunked body: bad trailer {line[:32]!r}")

    def _line_is_staged(self) -> bool:
        staged = bytes(self._staging[self._start : min(self._stop, self._start + SIZE_LINE_BYTES_MAX)])
        return staged.find(b"\n", 2 if self._crlf_due else 0) >= 0

    def _line(self, bytes_max: int) -> bytes:
        """The next line without its CRLF. Raises BadRequest for a bare LF, and when more than `bytes_max` come
        without an end."""
        while True:
            staged = bytes(self._staging[self._start : min(self._stop, self._start + bytes_max + 2)])
            end = staged.find(b"\n")
            if end >= 0:
                if end == 0 or staged[end - 1] != 0x0D:
                    raise BadRequest("chunked body: a line ends with a bare LF")
                self._start += end + 1
                return staged[: end - 1]
            if len(staged) >= bytes_max + 2:
                raise BadRequest(f"chunked body: no line end within {bytes_max} bytes")
            self._refill(self._line_read_bytes())

    def _line_read_bytes(self) -> int:
        return _LINE_READ_BYTES if self._size >= _DIRECT_BYTES_MIN else STAGING_BYTES

    def _refill(self, bytes_max: int) -> None:
        """Receive at least one more byte into staging, behind the little that is left there."""
        left = self._stop - self._start
        if self._start:
            self._staging[:left] = bytes(self._staging[self._start : self._stop])
            self._start, self._stop = 0, left
        assert left < len(self._staging)
        count = self._sock.recv_into(self._staging[left : left + bytes_max])
        if count == 0:
            raise BodyCut
        self._stop += count

    def _receive(self, view: memoryview) -> int:
        """One read of the present piece and, if they come as guessed, of those behind it. Staging is empty here."""
        first = min(self._left, len(view))
        parts = [view[:first]]
        gap = len(self._between)
        at = first
        reach = min(len(view), first + STAGING_BYTES - _PIECES_MAX * gap)
        while gap and at < reach and len(parts) < 2 * _PIECES_MAX:
            gap_at = len(parts) // 2 * gap
            count = min(self._size, reach - at)
            parts += (self._gaps[gap_at : gap_at + gap], view[at : at + count])
            at += count
        count = self._sock.recvmsg_into(parts)[0]
        if count == 0:
            raise BodyCut
        filled = min(count, first)
        self._left -= filled
        count -= filled
        for index in range(1, len(parts), 2):
            if count == 0:
                break
            if count < gap or parts[index] != self._between:
                self._stage(parts[index:], count)
                break
            taken = min(count - gap, len(parts[index + 1]))
            self._left = self._size - taken
            filled += taken
            count -= gap + taken
        return filled

    def _stage(self, parts: list[memoryview], count: int) -> None:
        """The guess was wrong from here on: move the last `count` received bytes to where they can be parsed."""
        self._start = self._stop = 0
        for part in parts:
            taken = min(count, len(part))
            self._staging[self._stop : self._stop + taken] = part[:taken]
            self._stop += taken
            count -= taken
        assert count == 0
