"""Folds write transactions that wait at the same time into one commit of an SQLite database.

SQLite has one writer at a time, and with synchronous=FULL each commit waits for the disk. So a caller that finds no
writer becomes the writer (no thread of its own, no hand-over when nobody else is there): it opens one transaction, runs
its own function and then those of everybody who came meanwhile, each in a savepoint, and commits once for all of them.
A caller returns only after that commit. A function that fails rolls back its savepoint and nothing else. When a batch
is full, the first caller still waiting is made the next writer, so nobody works for others without end.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import Connection, Engine

from wire.errors import DeadlineExceeded, Overloaded, Unavailable

State = Literal["waiting", "leading", "running", "done"]


class _Job:
    """One caller's function. `state` is guarded by the committer's lock; `result` and `error` are valid once it is
    done."""

    __slots__ = ("context", "error", "fn", "result", "state", "woken")

    def __init__(self, fn: Callable[[Connection], Any]) -> None:
        self.fn = fn
        # The function may run in another caller's thread, but under its own request id.
        self.context = contextvars.copy_context()
        self.state: State = "waiting"
        self.result: Any = None
        self.error: BaseException | None = None
        self.woken = threading.Event()


class _TransactionLost(Exception):
    """SQLite itself rolled the whole transaction back (disk full, I/O error), not only the failing statement."""


class GroupCommitter:
    """The one writer of an SQLite engine. Thread-safe. At most `waiting_max` callers wait, each at most 2 x
    `wait_s`."""

    def __init__(self, *, wait_s: float, batch_max: int = 64, waiting_max: int = 1024) -> None:
        self._wait_s = wait_s
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._leading = False  # somebody writes, or was chosen to
        self._leader: int | None = None  # ident of the thread that writes just now

    def run(self, engine: Engine, fn: Callable[[Connection], Any]) -> Any:
        """The result of `fn(connection)`, committed. Raises what `fn` raises, or what the commit raises, for this
        caller.

        Raises Overloaded when too many wait, DeadlineExceeded when the turn did not come within `wait_s` (nothing was
        done) or the commit hangs (outcome unknown; all transactions of the rooms are harmless to repeat).
        """
        assert self._leader != threading.get_ident(), "a transaction must not open another one"
        job = _Job(fn)
        with self._lock:
            if not self._leading:
                self._leading = True
                job.state = "leading"
            elif len(self._waiting) >= self._waiting_max:
                raise Overloaded(f"{self._waiting_max} write transactions wait for the database", retry_after_s=1)
            else:
                self._waiting.append(job)
        try:
            self._wait(job)
        except BaseException:
            self._withdraw(job)
            raise
        if job.state == "leading":
            self._lead(engine, job)
        if job.error is not None:
            raise job.error
        return job.result

    def _wait(self, job: _Job) -> None:
        """Until the job is done or its caller has to lead."""
        if job.state == "leading" or job.woken.wait(self._wait_s):
            return
        with self._lock:
            never_ran = job.state == "waiting"
            if never_ran:
                # Under the same lock: a writer that took it now would do what its caller is told was not done.
                self._waiting.remove(job)
                job.state = "done"
        if never_ran:
            raise DeadlineExceeded(f"the database's writer was busy for {self._wait_s} s; nothing was changed")
        # It is being run: its outcome is worth waiting for, but not for ever.
        if not job.woken.wait(self._wait_s):
            raise DeadlineExceeded("the database does not finish a commit; its outcome is unknown")

    def _withdraw(self, job: _Job) -> None:
        """The caller goes away without a result: nobody may run its job or wait for it to lead."""
        with self._lock:
            if job.state == "waiting":
                self._waiting.remove(job)
            elif job.state == "leading":
                self._pass_on()

    def _pass_on(self) -> None:
        """Make the first waiting caller the next writer. The lock is held."""
        self._leading = bool(self._waiting)
        if self._waiting:
            successor = self._waiting.popleft()
            successor.state = "leading"
            successor.woken.set()

    def _lead(self, engine: Engine, first: _Job) -> None:
        batch = [first]
        self._leader = threading.get_ident()
        try:
            self._commit_batch(engine, batch)
        finally:
            with self._lock:
                self._leader = None
                self._pass_on()
                for job in batch:
                    if job.state != "done":  # this thread was interrupted (KeyboardInterrupt) before the commit
                        job.error = Unavailable("the write was interrupted before its commit")
                        job.state = "done"
            for job in batch:
                job.woken.set()

    def _commit_batch(self, engine: Engine, batch: list[_Job]) -> None:
        """Run batch[0] and whoever waits (added to `batch`); afterwards each job has its result or its error.

        When SQLite drops the whole transaction in the middle, those before the culprit are lost too although they
        succeeded: they are run again without it. Each round loses one job, so there are at most len(batch) rounds.
        """
        todo = batch[:]
        joining: list[_Job] | None = batch
        while todo:
            try:
                with write_transaction(engine) as connection:
                    self._run_jobs(connection, todo, joining)
            except _TransactionLost:
                joining = None
                todo = [job for job in todo if job.error is None]
                continue
            except Exception as error:  # noqa: BLE001 - begin or commit failed: everybody's error in this batch
                for job in todo:
                    job.error = job.error or error
            break
        with self._lock:
            for job in batch:
                job.state = "done"

    def _run_jobs(self, connection: Connection, todo: list[_Job], joining: list[_Job] | None) -> None:
        """Run each of `todo` in a savepoint; while there is room, those who wait join `todo` and `joining`."""
        position = 0
        while position < len(todo):
            _run_in_savepoint(connection, todo[position])
            position += 1
            if joining is not None and position == len(todo) and len(joining) < self._batch_max:
                job = self._next()
                if job is not None:
                    todo.append(job)
                    joining.append(job)

    def _next(self) -> _Job | None:
        with self._lock:
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            job.state = "running"
            return job


def _run_in_savepoint(connection: Connection, job: _Job) -> None:
    # On the driver's connection: a savepoint through SQLAlchemy costs as much as a statement or two of the job.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("SAVEPOINT job")
    try:
        job.result = job.context.run(job.fn, connection)
    except Exception as error:  # handed to the job's own caller
        job.error = error
        if not driver.in_transaction:
            raise _TransactionLost from error
        driver.execute("ROLLBACK TO job")
    driver.execute("RELEASE job")


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """BEGIN IMMEDIATE ... COMMIT on a connection of the pool; rolled back when the block raises."""
    with engine.connect().execution_options(speedy_begin="BEGIN IMMEDIATE") as connection, connection.begin():
        yield connection
