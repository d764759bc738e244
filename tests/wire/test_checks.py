"""Checks that many ask: one of them makes it, nobody else waits long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.wire.no_threads import no_more_threads
from tests.wire.raw import RawConnection, head
from tests.wire.serving import start, stop
from wire.checks import CachedCheck, unless_full
from wire.errors import InternalError, Overloaded, StorageFull, Unavailable


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_check_is_made_once_in_a_while_and_its_failure_is_kept_for_a_moment() -> None:
    clock = _Clock()
    asked: list[float] = []
    full = True

    def check() -> None:
        asked.append(clock.now_s)
        if full:
            raise StorageFull("no room")

    cached = CachedCheck(check, keep_s=1.0, clock=clock)
    for _ in range(3):
        with pytest.raises(StorageFull):
            cached()
    full = False
    clock.now_s = 0.15  # who was refused a moment ago is not refused for a second
    cached()
    clock.now_s = 1.1
    cached()
    assert asked == [0.0, 0.15]
    clock.now_s = 1.2
    cached()
    assert asked == [0.0, 0.15, 1.2]


def test_nobody_waits_for_a_check_that_hangs() -> None:
    clock = _Clock()
    begun, go_on = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        go_on.wait(10.0)

    cached = CachedCheck(check, clock=clock)
    asker = threading.Thread(target=cached)
    asker.start()
    assert begun.wait(5.0)
    cached()  # would hang here
    go_on.set()
    asker.join(5.0)


@contextmanager
def _hanging(cached: CachedCheck, begun: threading.Event, go_on: threading.Event) -> Iterator[None]:
    """Somebody waits for the check while the block runs."""
    asker = threading.Thread(target=cached)
    asker.start()
    assert begun.wait(5.0)
    try:
        yield
    finally:
        go_on.set()
        asker.join(5.0)


def test_a_check_that_is_late_counts_as_failed_until_it_answers() -> None:
    clock = _Clock()
    begun, go_on = threading.Event(), threading.Event()
    go_on.set()

    def check() -> None:
        begun.set()
        assert go_on.wait(10.0)

    cached = CachedCheck(check, late_s=2.0, clock=clock)
    cached()
    clock.now_s = 10.0
    begun.clear()
    go_on.clear()
    with _hanging(cached, begun, go_on):
        clock.now_s = 11.0
        cached()  # the outcome before
        clock.now_s = 12.5
        with pytest.raises(Unavailable, match="2 s"):
            cached()
    cached()


def test_the_first_outcome_is_waited_for_within_a_bound() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        assert go_on.wait(10.0)

    cached = CachedCheck(check, late_s=0.05)
    with _hanging(cached, begun, go_on), pytest.raises(Unavailable):
        cached()
    cached()


def test_nobody_waits_long_for_a_detached_check_not_even_who_asks_first() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def check() -> None:
        assert go_on.wait(10.0)
        ended.set()

    cached = CachedCheck(check, keep_s=60.0, late_s=0.05, detached=True)
    for _ in range(2):
        with pytest.raises(Unavailable):
            cached()
    go_on.set()
    assert ended.wait(5.0)
    cached()  # its outcome is kept


def test_a_detached_check_is_waited_for_when_it_is_quick() -> None:
    full = [True]

    def check() -> None:
        if full[0]:
            raise StorageFull("no room")

    cached = CachedCheck(check, keep_s=0.0, late_s=10.0, detached=True)
    with pytest.raises(StorageFull):
        cached()
    full.clear()
    full.append(False)
    cached()


def test_what_is_full_serves_and_what_is_away_does_not() -> None:
    def full() -> None:
        raise StorageFull("no room")

    def away() -> None:
        raise Unavailable("no answer")

    unless_full(full)()
    with pytest.raises(Unavailable):
        unless_full(away)()


def test_a_check_that_breaks_is_no_success_for_the_next() -> None:
    def check() -> None:
        raise ZeroDivisionError

    cached = CachedCheck(check)
    with pytest.raises(ZeroDivisionError):
        cached()
    with pytest.raises(InternalError):
        cached()


def test_a_check_for_which_there_was_no_thread_is_made_by_the_next_caller() -> None:
    made: list[int] = []
    cached = CachedCheck(lambda: made.append(1), late_s=5.0, detached=True)
    with no_more_threads(), pytest.raises(Overloaded):
        cached()
    cached()
    assert made == [1]


def test_health_answers_while_readiness_waits_for_something_that_hangs() -> None:
    server = start("tests.wire.echo:build", {"ready_s": 15.0}, ready=False, threads=2)
    askers = [RawConnection(server.port) for _ in range(6)]
    try:
        for raw in askers:
            raw.send(head("GET", "/readyz"))
        with RawConnection(server.port, timeout_s=6.0) as raw:
            assert raw.ask(head("GET", "/healthz")).status == 200
        with RawConnection(server.port, timeout_s=1.0) as raw:
            assert raw.ask(head("GET", "/readyz")).status == 503
    finally:
        for raw in askers:
            raw.sock.close()
        server.process.kill()  # nobody needs the end of what hangs
        stop(server)
