"""Calls between rooms: what is raised behind HTTP arrives, and trouble on the way is told from it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.wire.echo import DETAILS, SECRET, pattern
from tests.wire.serving import Server, serving
from wire.auth import ClusterKey
from wire.context import bind_request_id
from wire.errors import (
    ERRORS_BY_CODE,
    BadRequest,
    BodyTimeout,
    DeadlineExceeded,
    InternalError,
    NotFound,
    Overloaded,
    SpeedyError,
    TruncatedBody,
    Unavailable,
    UploadConflict,
)
from wire.http import ServiceClient, error_body, raise_for

KEY = ClusterKey(SECRET)


@pytest.fixture(scope="module")
def client(keyed_server: Server) -> Iterator[ServiceClient]:
    made = ServiceClient(keyed_server.url, KEY)
    yield made
    made.close()


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE))
def test_every_error_arrives_as_the_class_it_was_raised_as(client: ServiceClient, code: str) -> None:
    raised = ERRORS_BY_CODE[code]
    for call in (
        lambda: client.json("GET", f"/error/{code}", attempts_max=1),
        lambda: client.upload("PUT", f"/error/{code}", b"payload"),
        lambda: client.read_into(f"/error/{code}", bytearray(10)),
    ):
        with pytest.raises(SpeedyError) as caught:
            call()
        # Who sends is not told that the sender was silent, but that there was no getting through: try again.
        assert type(caught.value) is (DeadlineExceeded if raised is BodyTimeout else raised)
        if raised is InternalError:
            assert (caught.value.message, caught.value.details) == ("internal error", {})
        else:
            assert (caught.value.message, caught.value.details) == (f"raised as {code}", DETAILS)


def test_an_error_keeps_what_its_class_reads_from_the_details(client: ServiceClient) -> None:
    with pytest.raises(UploadConflict) as caught:
        client.json("GET", "/error/upload_conflict")
    assert caught.value.offset == 12


def test_a_defect_arrives_as_internal_error_without_its_inside(client: ServiceClient, keyed_server: Server) -> None:
    with pytest.raises(InternalError) as caught:
        client.json("GET", "/defect")
    assert "secret" not in caught.value.message
    assert keyed_server.log.count("RuntimeError: secret inside") == 1, "logged once, with its traceback"


def test_what_the_routing_refuses_arrives_as_the_nearest_class(client: ServiceClient) -> None:
    with pytest.raises(NotFound):
        client.json("GET", "/no/such/route")
    with pytest.raises(BadRequest):
        client.json("DELETE", "/who")


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_payloads_of_every_kind_and_size_arrive(client: ServiceClient, make: Callable[[bytes], bytes]) -> None:
    for size in (0, 1, 100_000, 5_000_000):
        told = client.upload("PUT", "/body", make(pattern(size)))
        assert (told["length"], told["announced"]) == (size, size), "with a length, not chunked"


def test_read_into_fills_the_buffer_and_gives_the_headers(client: ServiceClient) -> None:
    for size in (0, 1, 100_000, 1 << 20):
        buffer = bytearray(size)
        headers = client.read_into(f"/bytes/{size}", buffer)
        assert headers["content-length"] == str(size)
        assert buffer == pattern(1 << 20)[:size]


@pytest.mark.parametrize("asked", [99_999, 100_001])
def test_read_into_refuses_another_number_of_bytes(client: ServiceClient, asked: int) -> None:
    with pytest.raises(TruncatedBody):
        client.read_into("/bytes/100000", bytearray(asked))
    assert client.json("GET", "/who")


def test_an_answer_that_breaks_off_is_an_error(client: ServiceClient) -> None:
    with pytest.raises((Unavailable, TruncatedBody)):
        client.read_into("/bytes/5000000", bytearray(5_000_000), params={"fail": 2_000_000})
    assert client.json("GET", "/who")


def test_the_request_id_is_carried_on(client: ServiceClient) -> None:
    with bind_request_id("carried-1"):
        assert client.json("GET", "/who")["request_id"] == "carried-1"


def test_a_silent_server_is_a_deadline_exceeded_after_the_read_timeout(client: ServiceClient) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.json("GET", "/slow/5.0", read_timeout_s=0.3)
    assert time.monotonic() - started < 2, "not tried again: the caller's time is used up"


def test_nobody_listening_is_unavailable_after_a_bounded_number_of_attempts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = ServiceClient(f"http://127.0.0.1:{port}", KEY)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="Connection refused"):
        client.json("GET", "/who")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "url", ["", "localhost:5000", "https://h:1", "http://", "http://h:1/path", "http://h:1/?q", "http://u:p@h:1"]
)
def test_an_address_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        ServiceClient(url, KEY)


@pytest.mark.parametrize("path", ["", "who", "//evil/who", "/a b", "/a?b", "/a#b", "/ü", "/%zz", "/a\nb"])
def test_a_path_that_would_change_on_the_wire_is_refused(client: ServiceClient, path: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded"):
        client.json("GET", path)


# -- servers that behave badly, one scripted answer after the other ------------------------------------------


@contextmanager
def scripted(*scripts: bytes | None, hold: bool = False) -> Iterator[tuple[ServiceClient, list[bytes]]]:
    """A server that answers each request with the next of `scripts` (None: it closes the connection unanswered)."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)
    requests: list[bytes] = []
    left = list(scripts)
    held: list[socket.socket] = []

    def converse() -> None:
        while left:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(20)
            while left:
                try:
                    data = connection.recv(65536)
                    while data and b"\r\n\r\n" not in data:
                        data += connection.recv(65536)
                except OSError:
                    break
                if not data:
                    break
                requests.append(data)
                script = left.pop(0)
                if script is None:
                    break
                connection.sendall(script)
            if hold:
                held.append(connection)
            else:
                connection.close()

    thread = threading.Thread(target=converse)
    thread.start()
    client = ServiceClient(f"http://127.0.0.1:{listener.getsockname()[1]}", KEY)
    try:
        yield client, requests
    finally:
        client.close()
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()
        for connection in held:
            connection.close()
        thread.join(20)


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


OK = answer(200, b'{"a":1}')


def test_a_kept_connection_that_the_server_closed_is_replaced_once() -> None:
    with scripted(OK, None, OK) as (client, requests):
        assert client.json("GET", "/x", attempts_max=1) == {"a": 1}
        assert client.json("GET", "/x", attempts_max=1) == {"a": 1}
        assert len(requests) == 3
    with scripted(OK, None, None, OK) as (client, requests):
        assert client.json("GET", "/x", attempts_max=1) == {"a": 1}
        with pytest.raises(Unavailable):
            client.json("GET", "/x", attempts_max=1)
        assert len(requests) == 3


def test_retryable_errors_are_tried_again_and_others_are_not() -> None:
    busy = answer(503, json.dumps(error_body(Unavailable("busy"))).encode())
    with scripted(busy, busy, OK) as (client, _):
        assert client.json("GET", "/x") == {"a": 1}
    with scripted(busy, busy, busy, OK) as (client, requests):
        with pytest.raises(Unavailable, match="busy"):
            client.json("GET", "/x")
        assert len(requests) == 3
    with scripted(answer(404, json.dumps(error_body(NotFound("gone"))).encode()), OK) as (client, requests):
        with pytest.raises(NotFound):
            client.json("GET", "/x")
        assert len(requests) == 1


def test_an_upload_that_is_tried_again_sends_the_whole_payload_again() -> None:
    payload = pattern(20_000)
    busy = answer(503, json.dumps(error_body(Unavailable("busy"))).encode())
    with scripted(busy, answer(201, b"")) as (client, requests):
        assert client.upload("PUT", "/x", memoryview(payload), attempts_max=2) is None
        for request in requests:
            assert b"Content-Length: 20000\r\n" in request
            assert b"Transfer-Encoding" not in request


def test_a_server_that_does_not_take_the_body_is_a_deadline_exceeded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = ServiceClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", KEY, connect_timeout_s=5.0)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="not taken"):
            client.upload("PUT", "/x", bytearray(50_000_000), read_timeout_s=0.5)
        assert time.monotonic() - started < 3


def test_a_slow_receiver_gets_more_time_than_connecting() -> None:
    """urllib3 alone would send the body under the connect time-out."""
    with socket.create_server(("127.0.0.1", 0)) as slow:
        slow.settimeout(20)

        def take() -> None:
            connection, _ = slow.accept()
            with connection:
                time.sleep(0.6)
                left = 20_000_000
                while left > 0:
                    left -= len(connection.recv(1 << 20))
                connection.sendall(answer(201, b""))

        thread = threading.Thread(target=take)
        thread.start()
        client = ServiceClient(f"http://127.0.0.1:{slow.getsockname()[1]}", KEY, connect_timeout_s=0.2)
        client.upload("PUT", "/x", bytearray(20_000_000), read_timeout_s=10.0)
        thread.join(20)


def test_an_answer_that_stops_in_the_middle_of_its_body_is_told_apart() -> None:
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") as (client, _), pytest.raises(TruncatedBody):
        client.read_into("/x", bytearray(100))
    stalled = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", hold=True)
    with stalled as (client, _), pytest.raises(DeadlineExceeded):
        client.read_into("/x", bytearray(100), read_timeout_s=0.3)
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") as (client, _), pytest.raises(Unavailable):
        client.json("GET", "/x")


def test_answers_of_proxies_are_understood_by_their_status() -> None:
    for status, kind in ((502, Unavailable), (504, DeadlineExceeded), (413, SpeedyError), (404, NotFound)):
        with scripted(answer(status, b"<html>")) as (client, _), pytest.raises(kind):
            client.json("GET", "/x", attempts_max=1)
    with scripted(answer(302, b"", "Location: http://127.0.0.1:1/")) as (client, _), pytest.raises(Unavailable):
        client.json("GET", "/x", attempts_max=1)
    with scripted(answer(200, b"<html>")) as (client, _), pytest.raises(Unavailable, match="not JSON"):
        client.json("GET", "/x", attempts_max=1)
    with scripted(b"no http at all\r\n\r\n") as (client, _), pytest.raises(Unavailable):
        client.json("GET", "/x", attempts_max=1)


def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted(OK) as (client, _):
        assert client.json("GET", "/x", attempts_max=1) == {"a": 1}


def test_raise_for_reads_every_error_body_it_may_meet() -> None:
    raise_for(200, {}, b"anything")
    refusal = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": "too long", "detail": None}]}).encode()
    for status, body, kind in (
        (400, refusal, BadRequest),
        (414, refusal, BadRequest),
        (429, b"", Overloaded),
        (500, b"[]", InternalError),
        (500, b"{}", InternalError),
        (500, b'{"error": 5}', InternalError),
        (500, b'{"errors": []}', InternalError),
        (503, b'{"error": {"code": "unheard_of", "message": 5, "details": 7}}', Unavailable),
        (404, b'{"error": {"code": "chunk_not_found", "message": "m", "details": {"message": 1, "self": 2, "fid": 3}}}',
         NotFound),
    ):  # fmt: skip
        with pytest.raises(kind):
            raise_for(status, {}, body)
    with pytest.raises(Overloaded) as caught:
        raise_for(429, {"Retry-After": "7"}, b"")
    assert caught.value.retry_after_s == 7


def test_threads_share_a_client(keyed_server: Server) -> None:
    client = ServiceClient(keyed_server.url, KEY, pool_max=4)
    faults: list[BaseException] = []

    def call(number: int) -> None:
        try:
            for turn in range(15):
                with bind_request_id(f"t-{number}-{turn}"):
                    assert client.json("GET", "/who")["request_id"] == f"t-{number}-{turn}"
                    payload = bytes([number]) * 50_000
                    assert client.upload("PUT", "/body", payload)["length"] == 50_000
        except (SpeedyError, AssertionError) as error:
            faults.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    client.close()
    assert not faults


def test_a_restarted_server_is_reached_through_the_same_client() -> None:
    with serving("tests.wire.echo:build", {"key": True}) as server:
        client = ServiceClient(server.url, KEY)
        first = client.json("GET", "/who")["pid"]
        port = server.port
        assert server.stop() == 0
    with serving("tests.wire.echo:build", {"key": True}, port=port):
        assert client.json("GET", "/who")["pid"] != first
        client.close()
