"""The one moment in which a write that waited too long must not be taken by a writer any more."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection

from wire.database import create_engine
from wire.errors import DeadlineExceeded
from wire.group_commit import GroupCommitter

WAIT_S = 10.0


class HeldLock:
    """A lock that keeps one thread from going on after its second use, until somebody else says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses = 0
        self.held_thread: threading.Thread | None = None
        self.second_use_over = threading.Event()
        self.go_on = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if threading.current_thread() is self.held_thread:
            self._uses += 1
            if self._uses == 2:
                self.second_use_over.set()
                self.go_on.wait(WAIT_S)


def test_a_write_that_was_told_to_be_undone_is_done_by_nobody(tmp_path: Path) -> None:
    """The late one's first use of the lock puts it into the queue, its second one judges that it waited too long: what
    a writer takes after that is done although its caller hears that nothing was."""
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    committer = GroupCommitter(wait_s=0.2)
    lock = HeldLock()
    committer._lock = lock  # type: ignore[assignment]  # only entered and left
    begun, finish = threading.Event(), threading.Event()
    done: list[str] = []
    told: list[Exception] = []

    def first(_: Connection) -> None:
        begun.set()
        finish.wait(WAIT_S)

    def late() -> None:
        try:
            committer.run(engine, lambda _: done.append("late"))
        except DeadlineExceeded as error:
            told.append(error)

    writer = threading.Thread(target=committer.run, args=(engine, first))
    waiter = threading.Thread(target=late)
    lock.held_thread = waiter
    try:
        writer.start()
        assert begun.wait(WAIT_S)
        waiter.start()
        assert lock.second_use_over.wait(WAIT_S)
        finish.set()
        writer.join(WAIT_S)
        assert not writer.is_alive()
    finally:
        finish.set()
        lock.go_on.set()
        waiter.join(WAIT_S)
    assert done == []
    assert "nothing was changed" in str(told[0])
    assert committer.run(engine, lambda _: "the next one") == "the next one"
    engine.dispose()
