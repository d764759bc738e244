"""Worker threads where the kernel refuses more of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from wire.threads import WorkerThreads

#: no machine has room for such a stack: the kernel refuses the thread
_STACK_BYTES = 1 << 46


@contextmanager
def no_more_threads() -> Iterator[None]:
    before = threading.stack_size(_STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)


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
