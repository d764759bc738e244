"""RequestBody behind a real gunicorn, seen from a bare socket."""

import contextlib
import hashlib
import io
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.wire.echo import pattern
from tests.wire.raw import GET_WHO, RawConnection, chunked, head, with_chunks, with_length
from tests.wire.serving import Server, serving, wait_until
from wire.body import RequestBody
from wire.errors import BadRequest, PayloadTooLarge, TruncatedBody

PAYLOAD = pattern(300_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pieces(payload: bytes, size: int = 32768) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


@pytest.mark.parametrize("buffer", [1000, 65536, 1 << 20])
def test_the_connection_serves_on_after_bodies_of_both_kinds(raw: RawConnection, buffer: int) -> None:
    for _ in range(3):
        told = raw.ask(with_length("PUT", f"/body?buffer={buffer}", PAYLOAD))
        assert told.json == {"length": len(PAYLOAD), "sha256": sha256(PAYLOAD), "announced": len(PAYLOAD)}
        told = raw.ask(with_chunks("PATCH", f"/body?buffer={buffer}", *pieces(PAYLOAD)))
        assert told.json == {"length": len(PAYLOAD), "sha256": sha256(PAYLOAD), "announced": None}
        assert told.headers["connection"] == "keep-alive"
        assert raw.ask(GET_WHO).status == 200


@pytest.mark.parametrize("body", [with_length("PUT", "/body", PAYLOAD), with_chunks("PUT", "/body", *pieces(PAYLOAD))])
def test_requests_sent_behind_a_body_without_waiting_are_answered_in_order(raw: RawConnection, body: bytes) -> None:
    raw.send(body + GET_WHO + body + GET_WHO + GET_WHO)
    assert [raw.answer().json.get("length", "who") for _ in range(5)] == [300_000, "who", 300_000, "who", "who"]


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_what_came_with_the_head_is_split_between_body_and_next_request(raw: RawConnection, size: int) -> None:
    body = pattern(size)
    for request in (with_length("PUT", "/body", body), with_chunks("PUT", "/body", body)):
        raw.send(request + GET_WHO + request + GET_WHO)
        assert [raw.answer().json.get("length", "who") for _ in range(4)] == [size, "who", size, "who"]


@pytest.mark.parametrize("size", [50_000, 10_000_000])
def test_an_app_that_leaves_a_body_unread_never_has_it_taken_for_a_request(size: int) -> None:
    smuggled = (b"\r\n0\r\n\r\n" + GET_WHO) * (size // 60)
    with serving("tests.wire.echo:build_bare") as server:
        for request in (with_chunks("PUT", "/", smuggled), with_length("PUT", "/", smuggled)):
            with RawConnection(server.port) as raw:
                with contextlib.suppress(ConnectionError):
                    raw.send(request)
                assert raw.answer().body == b"100"
                # Either the rest was drained and the connection serves on, or it ends. No third answer.
                with contextlib.suppress(ConnectionError, EOFError):
                    assert raw.ask(GET_WHO).body == b"  0"
                assert raw.pending == b""


def test_empty_bodies_of_all_kinds_are_empty(raw: RawConnection) -> None:
    for request in (head("PUT", "/body"), with_length("PUT", "/body", b""), with_chunks("PUT", "/body")):
        assert raw.ask(request).json["length"] == 0
        assert raw.ask(GET_WHO).status == 200


def test_a_body_that_comes_byte_by_byte_is_whole(raw: RawConnection) -> None:
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in with_chunks("PUT", "/body", b"hello", b"world"):
        raw.send(bytes([byte]))
    assert raw.answer().json["sha256"] == sha256(b"helloworld")
    assert raw.ask(GET_WHO).status == 200


def test_trailers_and_extensions_are_dropped(raw: RawConnection) -> None:
    raw.send(head("PUT", "/body", "Transfer-Encoding: chunked"))
    raw.send(b'5;name="value"\r\nhello\r\n0\r\nX-Sum: 12\r\nHost: evil\r\n\r\n')
    assert raw.answer().json["length"] == 5
    assert raw.ask(GET_WHO).status == 200


def test_a_cut_body_with_length_tells_what_came(raw: RawConnection) -> None:
    raw.send(head("PUT", "/body", "Content-Length: 1000000") + PAYLOAD)
    raw.sock.shutdown(socket.SHUT_WR)
    told = raw.answer()
    assert told.status == 400
    assert told.json["error"]["code"] == "truncated_body"
    assert told.json["error"]["details"] == {"received": len(PAYLOAD), "announced": 1_000_000}
    assert told.headers["connection"] == "close"
    assert raw.is_closed_by_server()


def test_a_cut_chunked_body_tells_what_came(raw: RawConnection) -> None:
    raw.send(head("PUT", "/body", "Transfer-Encoding: chunked") + chunked(*pieces(PAYLOAD))[:-5])
    raw.sock.shutdown(socket.SHUT_WR)
    told = raw.answer()
    assert (told.status, told.json["error"]["code"]) == (400, "truncated_body")
    assert told.json["error"]["details"] == {"received": len(PAYLOAD), "announced": None}
    assert raw.is_closed_by_server()


@pytest.mark.parametrize("line", [b"zz\r\n", b"5\nhello\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloXX", b"f" * 2000])
def test_a_malformed_piece_is_refused_and_the_connection_ends(raw: RawConnection, line: bytes) -> None:
    raw.send(head("PUT", "/body", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n" + line + GET_WHO)
    told = raw.answer()
    assert (told.status, told.json["error"]["code"]) == (400, "bad_request")
    assert told.headers["connection"] == "close"
    assert raw.is_closed_by_server(), "what follows a broken body must not be taken for a request"


@pytest.mark.parametrize("request_head", [("Content-Length: 10",), ("Transfer-Encoding: chunked",)])
def test_a_silent_sender_is_given_up_after_the_idle_timeout(hasty_server: Server, request_head: tuple[str]) -> None:
    with RawConnection(hasty_server.port) as raw:
        started = time.monotonic()
        raw.send(head("PUT", "/body", *request_head))
        told = raw.answer()
        assert (told.status, told.json["error"]["code"]) == (408, "body_timeout")
        assert 0.4 < time.monotonic() - started < 5
        assert raw.is_closed_by_server()


def test_an_unread_small_body_does_not_hurt_the_next_request(raw: RawConnection) -> None:
    for request in (with_length("PUT", "/early", PAYLOAD), with_chunks("PUT", "/early", *pieces(PAYLOAD))):
        told = raw.ask(request)
        assert told.status == 503
        assert told.headers["connection"] == "keep-alive"
        assert raw.ask(GET_WHO).status == 200


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_half_read_body_does_not_hurt_the_next_request(raw: RawConnection, kind: str) -> None:
    make = {"length": with_length("PUT", "/part/100", PAYLOAD), "chunked": with_chunks("PUT", "/part/100", PAYLOAD)}
    assert raw.ask(make[kind] + GET_WHO).json == {"got": 100}
    assert raw.answer().status == 200


def test_an_early_answer_reaches_a_client_whose_body_is_too_large_to_drain(raw: RawConnection) -> None:
    raw.send(head("PUT", "/early", "Content-Length: 1000000000") + PAYLOAD)
    told = raw.answer()
    assert told.status == 503
    assert told.headers["connection"] == "close"
    assert raw.is_closed_by_server()


def test_an_early_answer_reaches_a_client_that_stopped_sending(raw: RawConnection) -> None:
    raw.send(head("PUT", "/early", "Transfer-Encoding: chunked") + b"5\r\nhel")
    started = time.monotonic()
    told = raw.answer()
    assert (told.status, told.headers["connection"]) == (503, "close")
    assert time.monotonic() - started < 10


def test_refused_clients_that_send_nothing_do_not_take_all_threads(server: Server) -> None:
    """Eight threads; each used to wait two seconds for a body that never came."""
    held = [RawConnection(server.port) for _ in range(60)]
    try:
        for raw in held:
            raw.send(head("PUT", "/early", "Content-Length: 10"))
        started = time.monotonic()
        assert server.get("/who")[0] == 200
        assert time.monotonic() - started < 8
        assert [raw.answer().status for raw in held] == [503] * 60
    finally:
        for raw in held:
            raw.sock.close()


def test_expect_100_continue_is_answered_before_the_body(raw: RawConnection) -> None:
    raw.send(head("PUT", "/body", "Content-Length: 5", "Expect: 100-continue"))
    wait_until(lambda: b"100 Continue" in raw.sock.recv(200, socket.MSG_PEEK), 5, "100 Continue")
    raw.send(b"hello")
    assert raw.answer().json["length"] == 5
    assert raw.ask(GET_WHO).status == 200


def test_curl_uploads_a_file_and_a_stream(server: Server, tmp_path: Path) -> None:
    source = tmp_path / "payload"
    source.write_bytes(pattern(5_000_000))
    for form in (["-T", str(source)], ["-T", "-"]):
        with source.open("rb") as stdin:
            command = ["curl", "-sS", "-H", "Expect: 100-continue", "--max-time", "30", *form, f"{server.url}/body"]
            done = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
        assert sha256(source.read_bytes()) in done.stdout.decode()


def test_read_exact_into_takes_exactly_that_many_bytes(raw: RawConnection) -> None:
    for request in (with_length, lambda m, p, b: with_chunks(m, p, *pieces(b))):
        assert raw.ask(request("PUT", f"/exact/{len(PAYLOAD)}", PAYLOAD)).json["sha256"] == sha256(PAYLOAD)
        short = raw.ask(request("PUT", f"/exact/{len(PAYLOAD) + 1}", PAYLOAD))
        assert (short.status, short.json["error"]["code"]) == (400, "truncated_body")
        long = raw.ask(request("PUT", f"/exact/{len(PAYLOAD) - 1}", PAYLOAD))
        assert (long.status, long.json["error"]["code"]) == (400, "bad_request")
        assert raw.ask(GET_WHO).status == 200


def test_read_all_is_bounded(raw: RawConnection) -> None:
    for request in (with_length("PUT", "/all/299999", PAYLOAD), with_chunks("PUT", "/all/299999", PAYLOAD)):
        assert raw.ask(request).json["error"]["code"] == "payload_too_large"
    for request in (with_length("PUT", "/all/300000", PAYLOAD), with_chunks("PUT", "/all/300000", PAYLOAD)):
        assert raw.ask(request).json == {"length": 300_000}


@pytest.mark.parametrize("request_bytes", [with_length("POST", "/json", b'{"a":1}', "Content-Type: application/json")])
def test_json_through_wsgi_input_works_on(raw: RawConnection, request_bytes: bytes) -> None:
    for _ in range(3):
        assert raw.ask(request_bytes).json == {"a": 1}


def test_a_bad_chunk_met_by_wsgi_input_is_the_senders_fault(raw: RawConnection) -> None:
    raw.send(head("POST", "/json", "Transfer-Encoding: chunked", "Content-Type: application/json") + b"zz\r\n")
    told = raw.answer()
    assert (told.status, told.json["error"]["code"]) == (400, "bad_request")
    assert raw.is_closed_by_server()


def test_two_lengths_or_a_length_beside_chunks_are_refused(server: Server) -> None:
    for headers in (
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: -5",),
        ("Transfer-Encoding: chunked, identity",),
    ):
        with RawConnection(server.port) as raw:
            told = raw.ask(head("PUT", "/body", *headers) + b"hello")
            assert (told.status, told.json["errors"][0]["code"]) == (400, "UNSUPPORTED")
            assert raw.is_closed_by_server()


def plain_environ(body: bytes, announced: str | None) -> dict[str, object]:
    environ: dict[str, object] = {"wsgi.input": io.BytesIO(body), "REQUEST_METHOD": "PUT"}
    if announced is None:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    else:
        environ["CONTENT_LENGTH"] = announced
    return environ


def test_under_another_wsgi_server_the_body_comes_from_wsgi_input() -> None:
    assert RequestBody(plain_environ(b"hello", "5")).read_all(100) == b"hello"
    assert RequestBody(plain_environ(b"hello", None)).read_all(100) == b"hello"
    assert RequestBody(plain_environ(b"hello and more", "5")).read_all(100) == b"hello"
    assert RequestBody(plain_environ(b"hello", "")).read_all(100) == b""
    with pytest.raises(TruncatedBody):
        RequestBody(plain_environ(b"hel", "5")).read_all(100)
    with pytest.raises(PayloadTooLarge):
        RequestBody(plain_environ(b"hello", None)).read_all(4)
    with pytest.raises(BadRequest):
        RequestBody(plain_environ(b"hello", "5")).read_exact_into(bytearray(4))
    body = RequestBody(plain_environ(b"hello", "5"))
    assert body.drain()
    assert body.received == 5
