"""Servers that let their callers wait: those that are busy are waited for, those that stand still are left."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.wire.echo import SECRET, pattern
from tests.wire.serving import Server, freeze, serving, wait_until
from wire.auth import ClusterKey
from wire.errors import DeadlineExceeded
from wire.http import ServiceClient
from wire.pulse import Pulse, is_alone
from wire.transport import StandsStill

KEY = ClusterKey(SECRET)

#: what finding out may take on a busy machine; far below the time-outs of the calls
SOON_S = 15.0


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with serving("tests.wire.echo:build", {"key": True}) as running:
        yield running


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    pid = server.worker_pid
    freeze(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_busy_server_is_waited_for(own_server: Server) -> None:
    client, pulse = ServiceClient(own_server.url, KEY), Pulse(own_server.url, KEY)
    with pulse.watched():
        assert client.json("GET", "/slow/2.5") == {"slept": 2.5}
    assert not pulse.still


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.json("GET", "/who"),
        lambda client: client.json("GET", "/who", fresh=True),
        lambda client: client.upload("PUT", "/body", pattern(32 << 20)),  # more than fits into the kernel's buffers
        lambda client: client.read_into("/bytes/10", bytearray(10)),
    ],
    ids=["json", "fresh", "upload", "read"],
)
def test_a_server_that_stands_still_is_left_soon_and_used_again_when_it_goes_on(
    own_server: Server, call: Callable[[ServiceClient], object]
) -> None:
    client = ServiceClient(own_server.url, KEY, read_timeout_s=120.0, attempts_max=3)
    pulse = Pulse(own_server.url, KEY)
    with pulse.watched():
        call(client)
    with stopped(own_server):
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="stands still"), pulse.watched():
            call(client)
        assert time.monotonic() - started_s < SOON_S
        assert pulse.still
        with pytest.raises(DeadlineExceeded) as known, pulse.watched():
            pytest.fail("nothing may be sent to a server that is known to stand still")
        assert known.value.unsent
    wait_until(lambda: not pulse.still, SOON_S, "an answer")
    with pulse.watched():
        call(client)
    pulse.close()


def test_many_callers_find_out_together(own_server: Server) -> None:
    client = ServiceClient(own_server.url, KEY, read_timeout_s=120.0)
    pulse = Pulse(own_server.url, KEY)
    left: list[float] = []

    def call() -> None:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded), pulse.watched():
            client.json("GET", "/who", attempts_max=1)
        left.append(time.monotonic() - started_s)

    with stopped(own_server):
        callers = [threading.Thread(target=call) for _ in range(12)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
    assert len(left) == 12
    assert max(left) < SOON_S, "one question for all, not one after the other"
    pulse.close()


class StartedLate(threading.Thread):
    """start() returns when the thread has done its work, as on a machine where everybody waits for a processor."""

    def start(self) -> None:
        super().start()
        self.join(SOON_S)


def test_a_server_that_answers_again_at_once_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(Pulse, "_answers", lambda *_: next(answers))
    monkeypatch.setattr("wire.pulse.threading.Thread", StartedLate)
    pulse = Pulse("http://127.0.0.1:1", KEY)
    with pytest.raises(StandsStill):
        pulse.check()
    assert not pulse.still
    pulse.close()


def test_a_question_that_fails_for_want_of_memory_leaves_no_server_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(Pulse, "_answers", no_memory)
    pulse = Pulse("http://127.0.0.1:1", KEY)
    pulse._still = True
    with pytest.raises(MemoryError):
        pulse._until_it_answers()
    assert not pulse.still
    pulse.close()


def test_silence_in_the_middle_of_an_answer_ends_a_watched_call_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begun: list[socket.socket] = []

        def answer_half() -> None:
            connection, _ = listener.accept()
            begun.append(connection)
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)

        server = threading.Thread(target=answer_half)
        server.start()
        client, pulse = ServiceClient(url, KEY, read_timeout_s=120.0), Pulse(url, KEY)
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="silent for 3 s"), pulse.watched():
            client.read_into("/bytes/100", bytearray(100))
        assert time.monotonic() - started_s < SOON_S
        server.join(10)
        for connection in begun:
            connection.close()


def test_who_has_nobody_else_to_turn_to_is_alone() -> None:
    pulses = [Pulse(f"http://127.0.0.1:{port}", KEY) for port in (1, 2, 3)]
    assert not is_alone(pulses[0], pulses)
    pulses[1]._still = pulses[2]._still = True
    assert is_alone(pulses[0], pulses)
    assert not is_alone(pulses[1], pulses)
    assert is_alone(pulses[0], pulses[:1])
