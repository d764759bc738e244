"""speedy.cluster.readiness: whatever is behind an address, a line that says how it is."""

import socket
import threading

import pytest

from speedy.cluster import readiness


def answer_of(data: bytes) -> tuple[bool, str]:
    """readiness() of a port where one connection gets `data` and is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def give() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=give)
        thread.start()
        try:
            return readiness(f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            thread.join(20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n[]",
    ],
    ids=["nothing", "mail", "status", "header", "chunks", "cut", "form"],
)
def test_what_is_no_room_is_not_ready_and_says_why(data: bytes) -> None:
    ready, reason = answer_of(data)
    assert not ready
    assert reason


def test_where_nobody_listens_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert readiness(f"http://127.0.0.1:{port}") == (False, "[Errno 111] Connection refused")


def test_a_room_that_is_ready_says_so() -> None:
    body = b'{"status": "ready"}'
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    assert answer_of(head + body) == (True, "")
