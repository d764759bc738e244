"""A client that uploads one layer through a balancer whatever dies behind it, and keeps account of what it sent."""

from __future__ import annotations

import http.client
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

KIB = 1024
SEND_BYTES = 64 * KIB
TIMEOUT_S = 90.0
GIVE_UP_S = 120.0
PAUSE_S = 0.05

#: how a request ends whose front end was killed, and what front ends answer while the rooms behind them start
BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    location: str
    size: int  # of the upload, as its Range says
    text: str


@dataclass(frozen=True, slots=True)
class Layer:
    data: bytes | mmap.mmap
    digest: str


@dataclass(slots=True)
class ResumingUpload:
    """`piece_bytes` per PATCH; None: all that is left in one chunked stream. `reached` is called with the position of
    each byte that goes out, before it does, and with the layer's size before the closing request."""

    url: str
    repository: str
    layer: Layer
    piece_bytes: int | None
    reached: Callable[[int], None]
    answered: int = 0
    sent_again: list[int] = field(default_factory=list)
    _location: str = ""
    _sent: int = 0

    def run(self) -> None:
        """Upload the layer. AssertionError when a byte that was answered is asked for again."""
        size = len(self.layer.data)
        opened = self._until_answered("POST", f"/v2/{self.repository}/blobs/uploads/", 202)
        self._location = opened.location
        while self.answered < size:
            end = size if self.piece_bytes is None else self.answered + self.piece_bytes
            self._patch(min(end, size))
        self.reached(size)
        self._until_answered("PUT", f"{self._location}?digest={self.layer.digest}", 201)

    def _patch(self, end: int) -> None:
        start = self.answered
        headers = {"Content-Range": f"{start}-{end - 1}"}
        if self.piece_bytes is not None:
            headers["Content-Length"] = str(end - start)
        self._sent = start
        try:
            answer = self._ask("PATCH", self._location, self._bytes(start, end), headers)
        except BROKEN:
            answer = None
        if answer is not None and answer.status == 202:
            assert answer.size == end, f"{end} bytes were sent, {answer.size} are told"
            self.answered = end
            return
        # 416: a record that was on its way when its front end died came after the status was told.
        if answer is None or answer.status != 416:
            assert answer is None or answer.status >= 500, answer
            answer = self._until_answered("GET", self._location, 204)
        assert start <= answer.size <= end, f"answered {start}, sent {self._sent}, told {answer.size}"
        self.sent_again.append(max(0, self._sent - answer.size))
        self.answered = answer.size

    def _bytes(self, start: int, end: int) -> Iterator[bytes]:
        for position in range(start, end, SEND_BYTES):
            self.reached(position)
            piece = self.layer.data[position : min(position + SEND_BYTES, end)]
            yield piece
            self._sent = position + len(piece)

    def _until_answered(self, method: str, path: str, status: int) -> Answer:
        give_up_s = time.monotonic() + GIVE_UP_S
        last: object = None
        while time.monotonic() < give_up_s:
            try:
                answer = self._ask(method, path, None, {"Content-Length": "0"})
            except BROKEN as error:
                last = error
            else:
                if answer.status == status:
                    return answer
                assert answer.status >= 500, answer
                last = answer
            time.sleep(PAUSE_S)
        raise AssertionError(f"{method} {path} was not answered: {last!r}")

    def _ask(self, method: str, path: str, body: Iterator[bytes] | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, headers, encode_chunked="Content-Length" not in headers)
            reply = connection.getresponse()
            told = reply.headers.get("Range", "0-0").partition("-")[2]
            size = int(told) + 1 if told != "0" else 0
            return Answer(reply.status, reply.headers.get("Location", ""), size, reply.read().decode()[:500])
        finally:
            connection.close()
