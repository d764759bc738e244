"""A client that sends exactly the bytes a test wants, and reads answers off a bare socket."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawConnection:
    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.pending = b""

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, *, has_body: bool = True) -> Answer:
        """The next answer, interim ones (1xx) skipped. Raises EOFError when the connection ends before it."""
        while True:
            head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:] if line)}
            if status >= 200:
                break
        length = int(headers.get("content-length", "0")) if has_body else 0
        while len(self.pending) < length:
            self._more()
        body, self.pending = self.pending[:length], self.pending[length:]
        return Answer(status, headers, body)

    def ask(self, data: bytes) -> Answer:
        self.send(data)
        return self.answer()

    def is_closed_by_server(self) -> bool:
        """Waits (bounded by the socket's time-out) for the end of the connection; False when bytes come instead."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.pending:
            self._more()
        found, self.pending = self.pending.split(mark, 1)
        return found

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the connection ended after {self.pending[:200]!r}")
        self.pending += data


def head(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def with_length(method: str, path: str, body: bytes, *headers: str) -> bytes:
    return head(method, path, f"Content-Length: {len(body)}", *headers) + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def with_chunks(method: str, path: str, *pieces: bytes) -> bytes:
    return head(method, path, "Transfer-Encoding: chunked") + chunked(*pieces)


GET_WHO = head("GET", "/who")
