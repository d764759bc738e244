import io
from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.test import Client

from tests.wire.echo import pattern
from tests.wire.raw import GET_WHO, RawConnection, head
from tests.wire.serving import Server
from wire.response import StreamResponse


def test_bytes_arrive_as_they_are_and_the_connection_serves_on(raw: RawConnection) -> None:
    for size in (0, 1, 1 << 20, 3_000_001):
        told = raw.ask(head("GET", f"/bytes/{size}"))
        assert told.headers["content-length"] == str(size)
        assert told.headers["connection"] == "keep-alive"
        block = pattern(1 << 20)
        assert told.body == (block * 3)[:size]
        assert raw.ask(GET_WHO).status == 200


def test_head_gives_the_length_and_no_bytes(raw: RawConnection) -> None:
    raw.send(head("HEAD", "/bytes/1000") + GET_WHO)
    told = raw.answer(has_body=False)
    assert (told.status, told.headers["content-length"]) == (200, "1000")
    assert "pid" in raw.answer().json


@pytest.mark.parametrize("query", ["fail=1048576", "short=1048576"])
def test_a_source_that_breaks_in_the_middle_resets_the_connection(server: Server, query: str) -> None:
    with RawConnection(server.port) as raw:
        raw.send(head("GET", f"/bytes/3000000?{query}"))
        with pytest.raises(ConnectionResetError):
            raw.answer()
    assert "answer aborted" in server.log


def test_a_client_that_leaves_in_the_middle_hurts_nobody(server: Server) -> None:
    for _ in range(12):  # more than there are threads
        with RawConnection(server.port) as raw:
            raw.send(head("GET", "/bytes/50000000"))
            raw.sock.recv(1000)
    assert server.get("/healthz")[0] == 200


class Source:
    def __init__(self, *views: bytes) -> None:
        self.views = [memoryview(view) for view in views]
        self.closed = 0

    def __iter__(self) -> Iterator[memoryview]:
        return iter(self.views)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_under_another_wsgi_server_bytes_go_through_wsgi_and_the_source_is_closed(method: str) -> None:
    source = Source(b"hello", b"world")
    app = Flask("test")
    app.add_url_rule("/", view_func=lambda: StreamResponse(source, length=10, headers={"X-Mark": "m"}))
    response = Client(app).open("/", method=method)
    assert response.get_data() == (b"helloworld" if method == "GET" else b"")
    assert (response.headers["Content-Length"], response.headers["X-Mark"]) == ("10", "m")
    response.close()
    assert source.closed == 1


def test_a_buffer_is_released_once_whether_it_was_sent_or_not() -> None:
    released: list[str] = []
    app = Flask("test")
    app.add_url_rule(
        "/", view_func=lambda: StreamResponse.of_buffer(memoryview(b"abc"), lambda: released.append("sent"))
    )
    response = Client(app).get("/")
    assert response.get_data() == b"abc"
    response.close()
    assert released == ["sent"]
    unsent = StreamResponse.of_buffer(memoryview(b"abc"), lambda: released.append("unsent"))
    unsent.close()
    unsent.close()
    assert released == ["sent", "unsent"]


class DeadSocket(io.RawIOBase):
    """A connection whose reader has gone."""

    def sendall(self, _view: memoryview) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_the_source_is_closed_when_the_reader_has_gone() -> None:
    source = Source(b"hello")
    environ = {"REQUEST_METHOD": "GET", "gunicorn.socket": DeadSocket()}
    with pytest.raises(BrokenPipeError):
        StreamResponse(source, length=5)(environ, lambda *_: lambda _data: None)
    assert source.closed == 1
