"""HttpImageStore over several ImageServers, and what the app refuses."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from werkzeug.test import Client

from imageserver.app import chunk_buffers, create_app
from imageserver.client import ClientLimits, HttpImageStore
from imageserver.wsgi import WRITE_SHARE
from native.checksum import crc32c
from registry_driver.chunked import DriverLimits
from tests.imageserver.cluster import memory_cluster
from tests.imageserver.http import KEY, listening
from wire.errors import (
    ChecksumMismatch,
    ChunkUnreadable,
    DeadlineExceeded,
    InternalError,
    Overloaded,
    RangeNotSatisfiable,
    SpeedyError,
    TruncatedBody,
    Unauthorized,
    Unavailable,
)
from wire.settings import PUT_DEADLINE_S_MAX

PAYLOAD = b"payload" * 1000


@contextmanager
def port_that_refuses() -> Iterator[str]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


@contextmanager
def port_that_never_answers() -> Iterator[str]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def go_around(images: HttpImageStore) -> None:
    ref = images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
    buffer = bytearray(ref.length)
    images.read_chunk_into(ref, 0, buffer)
    assert bytes(buffer) == PAYLOAD
    images.read_chunk_into(ref, 10, memoryview(buffer)[:100])
    assert images.delete_chunks([ref]) == []
    images.check()


def test_a_dead_and_a_silent_image_server_are_passed_over_and_then_asked_last() -> None:
    store = memory_cluster().image_store()
    limits = ClientLimits(put_timeout_s=0.3, read_timeout_s=0.3, delete_timeout_s=0.3, check_timeout_s=0.3, avoid_s=60)
    with port_that_refuses() as dead, port_that_never_answers() as silent, listening(store) as alive:
        images = HttpImageStore([dead, silent, alive], KEY, limits=limits)
        for _ in range(6):
            go_around(images)
        assert all(images._in_turn()[0].base_url == alive for _ in range(6))
        images.close()


def test_an_image_server_that_stands_still_costs_a_moment_once_whatever_the_time_outs() -> None:
    store = memory_cluster().image_store()
    with port_that_never_answers() as still, listening(store) as alive:
        images = HttpImageStore([still, alive], KEY, limits=ClientLimits(avoid_s=0.0))
        started_s = time.monotonic()
        for _ in range(20):
            go_around(images)
        # Once: the time-outs (45 and 20 s), or finding out anew each time, would take far longer.
        assert time.monotonic() - started_s < 15.0
        assert images._in_turn()[0].base_url == alive
        images.close()


def test_what_the_one_that_answers_says_is_told_and_the_one_that_stands_still_not_waited_for() -> None:
    store = memory_cluster().image_store()
    buffers = chunk_buffers(4096, 1)
    object.__setattr__(buffers, "wait_s", 0.05)
    with port_that_never_answers() as still, listening(store, buffers) as alive:
        images = HttpImageStore([still, alive], KEY)
        images.put_chunk(b"x", crc32c(b"x"))
        images.put_chunk(b"x", crc32c(b"x"))
        held = buffers.usual.acquire(0.0)
        started_s = time.monotonic()
        for _ in range(4):
            with pytest.raises(Overloaded):
                images.put_chunk(b"x", crc32c(b"x"))
        assert time.monotonic() - started_s < 15.0
        buffers.usual.release(held)
        images.close()


def test_when_all_image_servers_are_dead_the_last_reason_is_told() -> None:
    with port_that_refuses() as first, port_that_refuses() as second:
        images = HttpImageStore([first, second], KEY)
        with pytest.raises(Unavailable, match="refused"):
            images.put_chunk(PAYLOAD, crc32c(PAYLOAD))


def test_the_wait_for_servers_that_are_all_silent_is_bounded_in_all() -> None:
    limits = ClientLimits(put_timeout_s=1.5, read_timeout_s=1.5, total_s=2.0)
    ref = memory_cluster().image_store().put_chunk(PAYLOAD, crc32c(PAYLOAD))
    with ExitStack() as ports:
        images = HttpImageStore([ports.enter_context(port_that_never_answers()) for _ in range(4)], KEY, limits=limits)
        for call in (
            lambda: images.put_chunk(PAYLOAD, crc32c(PAYLOAD)),
            lambda: images.read_chunk_into(ref, 0, bytearray(ref.length)),
        ):
            started_s = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                call()
            assert 1.8 < time.monotonic() - started_s < 5.0
        images.close()


def test_who_waits_for_a_chunk_waits_longer_than_whom_it_asks() -> None:
    latest_answer_s = PUT_DEADLINE_S_MAX * (1 + 1 / WRITE_SHARE)
    assert latest_answer_s < ClientLimits().put_timeout_s < ClientLimits().total_s
    assert ClientLimits().total_s + ClientLimits().connect_timeout_s < DriverLimits().chunk_wait_s


def test_image_servers_take_turns() -> None:
    one, other = memory_cluster().image_store(), memory_cluster().image_store()
    with listening(one) as first, listening(other) as second:
        images = HttpImageStore([first, second], KEY)
        for _ in range(10):
            images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        images.close()
    assert one.counters.values()["chunks_written"] == other.counters.values()["chunks_written"] == 5


def test_a_full_pool_answers_overloaded_with_a_bound_on_the_wait() -> None:
    store = memory_cluster().image_store()
    buffers = chunk_buffers(4096, 1)
    with listening(store, buffers) as url:
        held = buffers.usual.acquire(0.0)
        client = Client(create_app(store, key=None, buffers=buffers))
        object.__setattr__(buffers, "wait_s", 0.05)
        answer = client.put("/v1/chunks", data=b"x", headers={"Speedy-Crc32c": f"{crc32c(b'x'):08x}"})
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        images = HttpImageStore([url], KEY)
        with pytest.raises(Overloaded):
            images.put_chunk(b"x", crc32c(b"x"))
        buffers.usual.release(held)
        images.put_chunk(b"x", crc32c(b"x"))
        images.close()


def test_bytes_damaged_between_client_and_server_are_sent_again_to_another_server() -> None:
    store = memory_cluster(groups=2).image_store()
    calls = []

    with listening(store) as first, listening(store) as second:
        images = HttpImageStore([first, second], KEY)
        for server in images._servers:
            upload = server.upload

            def damage(method, path, payload, upload=upload, **options):  # type: ignore[no-untyped-def]
                calls.append(path)
                return upload(method, path, b"X" + bytes(payload[1:]) if len(calls) == 1 else payload, **options)

            server.upload = damage  # type: ignore[method-assign]
        ref = images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        assert len(calls) == 2
        buffer = bytearray(ref.length)
        images.read_chunk_into(ref, 0, buffer)
        assert bytes(buffer) == PAYLOAD
        with pytest.raises(ChecksumMismatch):
            images.put_chunk(PAYLOAD, crc32c(PAYLOAD) ^ 1)
        assert len(calls) == 3  # the caller's own fault is asked about once
        images.close()


@pytest.mark.parametrize("fault", [TruncatedBody, ChecksumMismatch, InternalError])
def test_what_happens_on_the_way_to_every_server_is_not_the_callers_fault(fault: type[SpeedyError]) -> None:
    store = memory_cluster().image_store()
    with listening(store) as first, listening(store) as second:
        images = HttpImageStore([first, second], KEY)
        for server in images._servers:

            def cut(method, path, payload, **options):  # type: ignore[no-untyped-def]
                raise fault("cut on the way")

            server.upload = cut  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="cut on the way"):
            images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        images.close()


@pytest.mark.parametrize(("offset", "length"), [(0, len(PAYLOAD)), (100, 500)])
def test_bytes_damaged_between_server_and_client_are_asked_for_again_and_never_given_out(
    offset: int, length: int
) -> None:
    store = memory_cluster().image_store()
    damaged: list[str] = []
    times = 1
    with listening(store) as first, listening(store) as second:
        images = HttpImageStore([first, second], KEY)
        ref = images.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        for server in images._servers:
            read_into = server.read_into

            def damage(path, buffer, read_into=read_into, **options):  # type: ignore[no-untyped-def]
                told = read_into(path, buffer, **options)
                if len(damaged) < times:
                    damaged.append(path)
                    buffer[7] ^= 1
                return told

            server.read_into = damage  # type: ignore[method-assign]
        buffer = bytearray(length)
        images.read_chunk_into(ref, offset, buffer)
        assert bytes(buffer) == PAYLOAD[offset : offset + length]
        assert len(damaged) == 1
        times = 100
        with pytest.raises(ChunkUnreadable):
            images.read_chunk_into(ref, offset, buffer)
        images.close()


def test_a_call_without_the_right_key_is_refused() -> None:
    store = memory_cluster().image_store()
    with listening(store) as url:
        ref = store.put_chunk(PAYLOAD, crc32c(PAYLOAD))
        stranger = HttpImageStore([url], type(KEY).generate())
        for call in (
            lambda: stranger.put_chunk(PAYLOAD, crc32c(PAYLOAD)),
            lambda: stranger.delete_chunks([ref]),
            stranger.check,
        ):
            with pytest.raises(Unauthorized):
                call()
        stranger.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "data", "status"),
    [
        ("PUT", "/v1/chunks", {}, b"x", 400),
        ("PUT", "/v1/chunks", {"Speedy-Crc32c": "xyz"}, b"x", 400),
        ("PUT", "/v1/chunks", {"Speedy-Crc32c": "0x12345"}, b"x", 400),
        ("PUT", "/v1/chunks", {"Speedy-Crc32c": "00000000"}, b"x", 400),
        ("PUT", "/v1/chunks", {"Speedy-Crc32c": "00000000", "Content-Length": str(1 << 40)}, b"", 413),
        ("GET", "/v1/chunks/1/1", {}, b"", 400),
        ("GET", "/v1/chunks/1/1?length=-1&crc32c=0", {}, b"", 400),
        ("GET", "/v1/chunks/1/1?length=99999999999999&crc32c=0", {}, b"", 400),
        ("GET", "/v1/chunks/1/1?length=10&crc32c=0", {"Range": "bytes=10-"}, b"", 416),
        ("GET", "/v1/chunks/1/1?length=10&crc32c=0", {"Range": "lines=1-2"}, b"", 416),
        ("GET", "/v1/chunks/1/1?length=10&crc32c=0", {"Range": "bytes=0-1,4-5"}, b"", 416),
        ("GET", "/v1/chunks/1/1?length=10&crc32c=0", {}, b"", 404),
        ("GET", "/v1/chunks/9/1?length=10&crc32c=0", {}, b"", 503),
        ("GET", "/v1/chunks/x/y", {}, b"", 404),
        ("POST", "/v1/chunks/delete", {}, b"", 400),
        ("POST", "/v1/chunks/delete", {"Content-Type": "application/json"}, b"{", 400),
        ("POST", "/v1/chunks/delete", {"Content-Type": "application/json"}, b'{"refs": [{"fid": "1"}]}', 400),
    ],
)
def test_bad_requests_get_their_status_and_hold_no_memory(
    method: str, path: str, headers: dict[str, str], data: bytes, status: int
) -> None:
    cluster = memory_cluster()
    buffers = chunk_buffers(4096, 2)
    client = Client(create_app(cluster.image_store(), key=None, buffers=buffers))
    overrides = {"CONTENT_LENGTH": headers["Content-Length"]} if "Content-Length" in headers else {}
    answer = client.open(path, method=method, headers=headers, data=data, environ_overrides=overrides)
    assert answer.status_code == status, answer.get_data()
    assert "error" in answer.get_json()
    assert buffers.usual.in_use == buffers.large.in_use == 0
    assert cluster.all_fids() == set()


def test_the_client_refuses_a_range_beyond_the_chunk_without_asking() -> None:
    with port_that_refuses() as url:
        images = HttpImageStore([url], KEY)
        ref = memory_cluster().image_store().put_chunk(b"12345", crc32c(b"12345"))
        with pytest.raises(RangeNotSatisfiable):
            images.read_chunk_into(ref, 3, bytearray(3))


def test_counters_are_shown_as_metrics() -> None:
    store = memory_cluster().image_store()
    store.put_chunk(PAYLOAD, crc32c(PAYLOAD))
    client = Client(create_app(store, key=KEY, buffers=chunk_buffers(4096, 2), counters=store.counters))
    shown = client.get("/metrics").get_data(as_text=True)
    assert "speedy_image_chunks_written_total 1.0" in shown
    assert "speedy_image_bad_copies_total 0.0" in shown
    assert client.get("/readyz").status_code == 200
