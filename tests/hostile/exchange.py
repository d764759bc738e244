"""One conversation on a bare socket: bytes go out as they are, and all that comes back is read strictly."""

from __future__ import annotations

import re
import socket
import time

from tests.wire.raw import Answer

#: No answer takes long by itself; what is beyond this hangs. (CI may stand still for seconds.)
ANSWER_S_MAX = 20.0

_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9][0-9]) [ -~]*")
_HEADER = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t -~]*)")


class Malformed(AssertionError):
    """What came back is no sequence of HTTP answers."""


def converse(port: int, data: bytes, *, pieces: int = 1, first_is_head: bool = False) -> list[Answer]:
    """Send `data` in so many pieces, end our side, read to the end of the other; the answers without interim ones.

    Raises TimeoutError for a server that hangs, Malformed for what is no HTTP.
    """
    deadline_s = time.monotonic() + ANSWER_S_MAX
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S_MAX) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = max(1, -(-len(data) // pieces))
        try:
            for start in range(0, len(data), step):
                sock.sendall(data[start : start + step])
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused early; the answer may be there
        while True:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no end of the answer within {ANSWER_S_MAX:g} s; so far {bytes(received[:200])!r}")
            sock.settimeout(left_s)
            try:
                more = sock.recv(1 << 20)
            except ConnectionResetError:
                break
            if not more:
                break
            received += more
    return read_answers(bytes(received), first_is_head=first_is_head)


def read_answers(received: bytes, *, first_is_head: bool = False) -> list[Answer]:
    answers: list[Answer] = []
    while received:
        head, mark, received = received.partition(b"\r\n\r\n")
        if not mark:
            raise Malformed(f"a head without end: {head[:200]!r}")
        lines = head.decode("latin-1").split("\r\n")
        told = _STATUS_LINE.fullmatch(lines[0])
        if told is None:
            raise Malformed(f"no status line: {lines[0][:200]!r}")
        status = int(told[1])
        headers: dict[str, str] = {}
        for line in lines[1:]:
            pair = _HEADER.fullmatch(line)
            if pair is None:
                raise Malformed(f"no header: {line[:200]!r}")
            name = pair[1].lower()
            if name in headers:
                raise Malformed(f"a header twice: {line[:200]!r}")
            headers[name] = pair[2]
        if status < 200:
            continue
        has_body = status not in (204, 304) and not (first_is_head and not answers)
        if has_body and "content-length" not in headers:
            raise Malformed(f"an answer of unknown length: {head[:300]!r}")
        length = int(headers["content-length"]) if has_body else 0
        if len(received) < length:
            raise Malformed(f"{len(received)} bytes of a body of {length}: {head[:300]!r}")
        answers.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return answers


def check_form(answer: Answer, *, is_head: bool = False) -> None:
    """Errors are told in the form of the OCI API, whoever tells them, and none is our fault."""
    if answer.status < 400:
        return
    # 501 is the one refusal of the parser that HTTP places there: a transfer coding that nobody knows (RFC 9112, 6.1)
    assert answer.status < 500 or answer.status == 501, answer
    assert answer.headers.get("docker-distribution-api-version") == "registry/2.0", answer
    assert answer.headers.get("content-type") == "application/json", answer
    if is_head:
        return
    told = answer.json
    assert list(told) == ["errors"], answer
    assert told["errors"], answer
    for entry in told["errors"]:
        assert set(entry) == {"code", "message", "detail"}, answer
        assert re.fullmatch("[A-Z_]+", entry["code"]), answer
        assert entry["message"], answer
        assert entry["message"].isprintable(), answer
