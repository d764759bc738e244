"""Worker threads where the kernel refuses more of them."""

from __future__ import annotations

import threading

import pytest

from tests.wire.no_threads import no_more_threads
from wire.threads import WorkerThreads


def test_work_is_done_by_the_threads_there_are_when_no_more_can_be_started() -> None:
    with WorkerThreads(4) as threads:
        begun, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert go_on.wait(10.0)

        first = threads.submit(wait)
        assert begun.wait(10.0)  # the only thread is busy: others would be started now
        with no_more_threads():
            later = [threads.submit(threading.get_ident) for _ in range(3)]
        go_on.set()
        first.result(10.0)
        assert len({task.result(10.0) for task in later}) == 1


def test_a_pool_that_has_begun_refuses_nothing() -> None:
    with WorkerThreads(4) as threads:
        threads.start_one()
        with no_more_threads():
            assert [threads.submit(int).result(10.0) for _ in range(3)] == [0, 0, 0]


def test_a_pool_that_could_not_begin_does_so_with_its_first_work() -> None:
    with WorkerThreads(4) as threads:
        with no_more_threads():
            threads.start_one()
        assert threads.submit(int).result(10.0) == 0


def test_work_that_was_refused_is_never_done() -> None:
    done: list[int] = []
    with WorkerThreads(4) as threads:
        with no_more_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(done.append, 1)
        threads.submit(done.append, 2).result(10.0)
    assert done == [2]


def test_who_has_all_the_threads_it_may_have_asks_for_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerThreads(1) as threads:
        begun, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert go_on.wait(10.0)

        threads.submit(wait)
        assert begun.wait(10.0)
        monkeypatch.setattr("wire.threads.has_room", lambda *_: pytest.fail("asked"))
        later = threads.submit(int)
        go_on.set()
        assert later.result(10.0) == 0
