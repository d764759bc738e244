"""A registry client that is never the bottleneck: one socket, precomputed bytes, no copy of a payload.

It speaks just enough HTTP/1.1 for the registries it measures: keep-alive, Content-Length answers, and docker's way of
pushing (chunked transfer encoding in pieces of 32 KiB).
"""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

PIECE_BYTES = 32 * 1024  # what docker's push writes at a time
_PIECES_PER_CALL = 64  # two views each: stays below IOV_MAX
_ANSWER_HEAD_MAX = 64 * 1024


class BenchmarkError(Exception):
    """A registry answered something that makes the measurement worthless."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def expect(self, *statuses: int) -> Answer:
        if self.status not in statuses:
            raise BenchmarkError(f"status {self.status} instead of {statuses}: {self.body[:300]!r}")
        return self


class Connection:
    def __init__(self, base_url: str, timeout_s: float = 120.0) -> None:
        parts = urlsplit(base_url)
        self._host, self._port, self._timeout_s = parts.hostname or "127.0.0.1", parts.port or 80, timeout_s
        self._socket = self._connect()
        self._pending = bytearray()

    def close(self) -> None:
        self._socket.close()

    def request(self, method: str, target: str, body: memoryview | None = None) -> Answer:
        """One request with a Content-Length body, and its answer."""
        length = 0 if body is None else len(body)
        self._send([memoryview(self._head(method, target, f"Content-Length: {length}")), *([body] if body else [])])
        return self._answer(method)

    def request_in_pieces(self, method: str, target: str, body: memoryview) -> Answer:
        """One request as docker sends it: chunked, no length, pieces of 32 KiB."""
        self._send([memoryview(self._head(method, target, "Transfer-Encoding: chunked"))])
        frame = memoryview(b"%x\r\n" % PIECE_BYTES)
        end = memoryview(b"\r\n")
        views: list[memoryview] = []
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            views += [frame if len(piece) == PIECE_BYTES else memoryview(b"%x\r\n" % len(piece)), piece, end]
            if len(views) >= 3 * _PIECES_PER_CALL:
                self._send(views)
                views = []
        self._send([*views, memoryview(b"0\r\n\r\n")])
        return self._answer(method)

    def download(self, target: str, buffer: memoryview, verify: str | None = None) -> int:
        """GET into `buffer` over and over; the number of body bytes. `verify` is the digest to check (costs time)."""
        self._send([memoryview(self._head("GET", target))])
        status, headers = self._answer_head()
        length = int(headers["content-length"])
        if status != 200:
            raise BenchmarkError(f"status {status} for {target}")
        sha = hashlib.sha256(self._pending[:length]) if verify else None
        received = min(len(self._pending), length)
        del self._pending[:received]
        while received < length:
            count = self._socket.recv_into(buffer, min(len(buffer), length - received))
            if count == 0:
                raise BenchmarkError(f"{target} ended after {received} of {length} bytes")
            if sha:
                sha.update(buffer[:count])
            received += count
        if sha and f"sha256:{sha.hexdigest()}" != verify:
            raise BenchmarkError(f"{target} came with other bytes")
        return received

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), self._timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _head(self, method: str, target: str, *lines: str) -> bytes:
        kind = ["Content-Type: application/octet-stream"] if method in ("PATCH", "PUT") else []
        rows = [f"{method} {target} HTTP/1.1", f"Host: {self._host}:{self._port}", *lines, *kind, "", ""]
        return "\r\n".join(rows).encode()

    def _send(self, views: list[memoryview]) -> None:
        at = 0
        while at < len(views):
            sent = self._socket.sendmsg(views[at : at + 3 * _PIECES_PER_CALL + 1])
            while at < len(views) and sent >= len(views[at]):
                sent -= len(views[at])
                at += 1
            if sent:
                views[at] = views[at][sent:]

    def _answer(self, method: str) -> Answer:
        status, headers = self._answer_head()
        while status == 100:
            status, headers = self._answer_head()
        if "chunked" in headers.get("transfer-encoding", ""):
            raise BenchmarkError("a chunked answer is not expected here")
        length = 0 if method == "HEAD" or status in (204, 304) else int(headers.get("content-length", "0"))
        while len(self._pending) < length:
            self._receive()
        body = bytes(self._pending[:length])
        del self._pending[:length]
        return Answer(status, headers, body)

    def _answer_head(self) -> tuple[int, dict[str, str]]:
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            if len(self._pending) > _ANSWER_HEAD_MAX:
                raise BenchmarkError("headers without an end")
            self._receive()
        first, *rows = self._pending[:end].decode("latin-1").split("\r\n")
        del self._pending[: end + 4]
        headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rows)}
        return int(first.split(" ", 2)[1]), headers

    def _receive(self) -> None:
        data = self._socket.recv(64 * 1024)
        if not data:
            raise BenchmarkError("the connection was closed before an answer")
        self._pending += data


def target_of(location: str) -> str:
    """Path and query of a Location header, absolute or relative."""
    parts = urlsplit(location)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def push(connection: Connection, repository: str, payload: memoryview, digest: str, *, streamed: bool) -> None:
    """One blob: POST, then a streamed PATCH and a closing PUT, or one PUT with the body."""
    opened = connection.request("POST", f"/v2/{repository}/blobs/uploads/").expect(202)
    target = target_of(opened.headers["location"])
    if streamed:
        patched = connection.request_in_pieces("PATCH", target, payload).expect(202, 204)
        target = target_of(patched.headers["location"])
    closing = f"{target}{'&' if '?' in target else '?'}digest={digest}"
    connection.request("PUT", closing, None if streamed else payload).expect(201)
