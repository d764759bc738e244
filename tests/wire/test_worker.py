"""What clients may do to a server without hurting others: stalls, floods, nonsense."""

import logging
import socket
import time
from contextlib import suppress
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from gunicorn.http.unreader import SocketUnreader

from tests.wire.raw import GET_WHO, RawConnection, head
from tests.wire.serving import Server, serving
from wire.body import set_send_timeout
from wire.worker import IDLE_MIN_S, NEXT_S, RoomConnection, RoomWorker


@pytest.mark.parametrize("sent", [b"G", b"GET /who HTTP/1.1\r\nHo", b"GET /who HTTP/1.1\r\nHost: a\r\n"])
def test_a_half_sent_head_is_answered_408_after_its_deadline(hasty_server: Server, sent: bytes) -> None:
    with RawConnection(hasty_server.port) as raw:
        started = time.monotonic()
        told = raw.ask(sent)
        assert told.status == 408
        assert told.json["errors"][0]["code"] == "UNSUPPORTED"
        assert 0.9 < time.monotonic() - started < 5
        assert raw.is_closed_by_server()


def test_a_head_that_trickles_does_not_outlive_its_deadline(hasty_server: Server) -> None:
    with RawConnection(hasty_server.port, timeout_s=0.1) as raw:
        started = time.monotonic()
        answered = b""
        for byte in head("GET", "/who", *(f"X-{i}: y" for i in range(200))):
            raw.send(bytes([byte]))
            try:
                answered = raw.sock.recv(100)
                break
            except TimeoutError:
                assert time.monotonic() - started < 5
        assert b" 408 " in answered


def test_half_sent_heads_and_idle_connections_hold_no_thread(hasty_server: Server) -> None:
    # Two threads; forty connections that would each hold one.
    held = [RawConnection(hasty_server.port) for _ in range(40)]
    try:
        for raw in held[:20]:
            raw.send(b"GET /who HTTP/1.1\r\nHost:")
        started = time.monotonic()
        assert hasty_server.get("/who")[0] == 200
        assert time.monotonic() - started < 0.95
    finally:
        for raw in held:
            raw.sock.close()


@pytest.mark.parametrize("sent", [b"G", b"GET /who HTTP/1.1\r\nHost: a\r\n"])
def test_a_half_sent_head_behind_an_answer_has_a_deadline_too(hasty_server: Server, sent: bytes) -> None:
    for pause_s in (0.0, 10 * NEXT_S):  # while the thread still looks for it, and afterwards
        with RawConnection(hasty_server.port) as raw:
            assert raw.ask(GET_WHO).status == 200
            time.sleep(pause_s)
            started = time.monotonic()
            assert raw.ask(sent).status == 408
            assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("sent", "waiting", "buffered", "goes_on"),
    [
        (GET_WHO, 0, b"", True),
        (GET_WHO, 1, b"", False),  # others wait for a thread
        (GET_WHO, 0, b"GET", False),  # the parser has the beginning of it already
        (GET_WHO[:10], 0, b"", False),
        (head("GET", "/healthz"), 0, b"", False),  # has threads of its own
        (b"", 0, b"", False),  # the client has gone
    ],
)
def test_a_thread_goes_on_with_a_whole_request_when_nobody_waits(
    sent: bytes, waiting: int, buffered: bytes, goes_on: bool
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        unreader = SocketUnreader(ours)
        unreader.unread(buffered)
        queue: SimpleQueue[int] = SimpleQueue()
        for number in range(waiting):
            queue.put(number)
        worker = SimpleNamespace(alive=True, tpool=SimpleNamespace(_work_queue=queue))
        connection = SimpleNamespace(sock=ours, parser=SimpleNamespace(unreader=unreader))
        assert RoomWorker._next_is_there(worker, connection) == goes_on  # type: ignore[arg-type]
        ours.setblocking(False)
        kept = unreader.take_buffered()
        assert kept + ours.recv(1000) == buffered + sent, "nothing of what was sent is lost"


def test_health_is_answered_behind_another_request_though_no_thread_is_free(hasty_server: Server) -> None:
    held = [RawConnection(hasty_server.port) for _ in range(2)]
    try:
        with RawConnection(hasty_server.port) as raw:
            assert raw.ask(GET_WHO).status == 200
            for slow in held:
                slow.send(head("GET", "/slow/2.0"))
            started = time.monotonic()
            assert raw.ask(head("GET", "/healthz")).status == 200
            assert time.monotonic() - started < 1.9
        assert [slow.answer().status for slow in held] == [200] * 2
    finally:
        for slow in held:
            slow.sock.close()


def test_health_answers_while_every_thread_is_busy(hasty_server: Server) -> None:
    held = [RawConnection(hasty_server.port) for _ in range(4)]
    try:
        for raw in held:
            raw.send(head("GET", "/slow/2.0"))
        started = time.monotonic()
        for path in ("/healthz", "/readyz", "/metrics"):
            assert hasty_server.get(path)[0] == 200
        assert time.monotonic() - started < 1.9
        assert [raw.answer().status for raw in held] == [200] * 4
    finally:
        for raw in held:
            raw.sock.close()


def test_a_client_that_keeps_its_side_open_does_not_stop_the_others(server: Server) -> None:
    """gunicorn would wait up to 2 s for the peer in its main loop, for each connection it closes."""
    held = [RawConnection(server.port) for _ in range(10)]
    try:
        for raw in held:
            assert raw.ask(head("GET", "/who", "Connection: close")).status == 200
        started = time.monotonic()
        assert server.get("/who")[0] == 200
        assert time.monotonic() - started < 1.9
    finally:
        for raw in held:
            raw.sock.close()


def test_a_reader_that_stalls_is_given_up(hasty_server: Server) -> None:
    held = [RawConnection(hasty_server.port) for _ in range(2)]
    try:
        for raw in held:
            raw.send(head("GET", "/bytes/200000000"))
        started = time.monotonic()
        assert hasty_server.get("/who")[0] == 200
        assert 0.1 < time.monotonic() - started < 10, "both threads were held, and came free"
    finally:
        for raw in held:
            raw.sock.close()


def test_the_main_loop_waits_for_nobody_who_reads_no_refusal() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        set_send_timeout(ours, 2.0)
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(4096), socket.MSG_DONTWAIT)
        worker = object.__new__(RoomWorker)
        worker.log, worker.nr_conns = logging.getLogger("speedy.test"), 1
        conn = object.__new__(RoomConnection)
        conn.sock, conn.client = ours, ("127.0.0.1", 1)
        started = time.monotonic()
        worker._refuse_now(conn, 503, "no thread")
        assert time.monotonic() - started < 1.9
        assert worker.nr_conns == 0


REFUSED = {
    "no http": (b"nonsense\r\n\r\n", 400),
    "bare line feeds": (b"GET /who HTTP/1.1\nHost: a\n\n", 400),
    "bare line feed at once": (b"GET /who HTTP/1.1\n", 400),
    "version": (b"GET /who HTTP/3.0\r\n\r\n", 400),
    "method": (b"get /who HTTP/1.1\r\n\r\n", 400),
    "control character": (head("GET", "/who", "X: a\x00b"), 400),
    "blank in the target": (b"GET /a b HTTP/1.1\r\n\r\n", 400),
    "folded header": (b"GET /who HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    "two hosts": (head("GET", "/who", "Host: other"), 400),
    "transfer coding": (head("PUT", "/body", "Transfer-Encoding: x-strange"), 501),
    "expectation": (head("PUT", "/body", "Expect: wonders"), 417),
    "long target": (head("GET", "/" + "x" * 9000), 414),
    "endless target": (b"GET /" + b"x" * 70_000, 414),
    "one long header": (head("GET", "/who", "X: " + "y" * 40_000), 431),
    "many headers": (head("GET", "/who", *(f"X-{i}: y" for i in range(150))), 431),
    "long headers that end": (head("GET", "/who", *(f"X-{i}: {'y' * 8000}" for i in range(9))), 431),
    "endless headers": (b"GET /who HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2000, 431),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_parsers_refusals_are_json_and_end_the_connection(raw: RawConnection, name: str) -> None:
    request, status = REFUSED[name]
    told = raw.ask(request)
    assert told.status == status
    assert told.headers["content-type"] == "application/json"
    assert told.headers["connection"] == "close"
    (error,) = told.json["errors"]
    assert set(error) == {"code", "message", "detail"}
    assert error["code"] == "UNSUPPORTED"
    assert raw.is_closed_by_server()


@pytest.mark.parametrize("option", ["close", "Upgrade, close", "close, Upgrade", "CLOSE", "x ,\tclose"])
def test_a_connection_that_is_to_be_closed_is_closed(raw: RawConnection, option: str) -> None:
    told = raw.ask(head("GET", "/who", f"Connection: {option}", "Upgrade: h2c"))
    assert (told.status, told.headers["connection"]) == (200, "close")
    assert raw.is_closed_by_server()


def test_a_large_but_allowed_head_is_served(raw: RawConnection) -> None:
    assert raw.ask(head("GET", "/who", "X: " + "y" * 30_000, "Z: " + "y" * 25_000)).status == 200


def test_a_head_in_pieces_and_several_at_once_are_served(raw: RawConnection) -> None:
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in GET_WHO:
        raw.send(bytes([byte]))
    assert raw.answer().status == 200
    raw.send(GET_WHO * 5 + GET_WHO[:10])
    assert [raw.answer().status for _ in range(5)] == [200] * 5
    raw.send(GET_WHO[10:])
    assert raw.answer().status == 200


def test_many_connections_at_once_are_all_served(server: Server) -> None:
    connections = [RawConnection(server.port) for _ in range(150)]
    try:
        for _ in range(2):
            for raw in connections:
                raw.send(GET_WHO)
            assert [raw.answer().status for raw in connections] == [200] * len(connections)
    finally:
        for raw in connections:
            raw.sock.close()


def test_a_client_may_not_name_the_apps_path(raw: RawConnection) -> None:
    told = raw.ask(head("GET", "/who", "SCRIPT_NAME: /who", "PATH_INFO: /healthz"))
    assert "pid" in told.json


def test_idle_connections_make_room_for_new_ones() -> None:
    """Each is kept for 75 s, and used to keep everybody else out for as long."""
    with serving("tests.wire.echo:build", connections_max=6, threads=2) as server:
        held = [RawConnection(server.port) for _ in range(6)]
        try:
            assert held[0].ask(GET_WHO).status == 200
            time.sleep(IDLE_MIN_S)
            started = time.monotonic()
            for _ in range(3):
                assert server.get("/who")[0] == 200
            assert time.monotonic() - started < 10
            assert held[0].ask(GET_WHO).status == 200  # the one used last stays
        finally:
            for raw in held:
                raw.sock.close()
