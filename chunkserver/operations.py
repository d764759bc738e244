"""Operations: what an operator has started and what takes too long for one HTTP request. One runs at a time, in a
thread of its own; it and its result stand here alone, so a restart loses both.

An operation that nobody asks for any more is stopped: its caller is gone and would never read what it found.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from chunkserver.interface import Operation, OperationKind, OperationState
from native.errors import EngineError
from wire.errors import Conflict, OperationNotFound

log = logging.getLogger("speedy.chunkserver")

UNWATCHED_S = 300.0
#: how long a call to stop waits for the end
STOP_S = 5.0
#: how long the end of the process waits for it
CLOSE_S = 10.0
_LOOK_S = 0.1


class Work(Protocol):
    """What an operation does."""

    def run(self, stopping: threading.Event) -> None:
        """All of it, or until `stopping` is set. Raises EngineError."""
        ...

    def interrupt(self) -> None:
        """Called again and again after `stopping` was set, from another thread."""
        ...

    def tell(self, operation: Operation) -> Operation:
        """`operation` with how far it is; from another thread."""
        ...


class Operations:
    """Thread-safe. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: _Running | None = None

    def known(self, operation_id: str, kind: OperationKind) -> Operation | None:
        """The operation, if this id has been started already: for callers that repeat themselves. Raises Conflict when
        another one runs, or when the id is another kind's."""
        with self._lock:
            last = self._last
        if last is None:
            return None
        told = last.tell()
        if told.id == operation_id:
            if told.kind != kind:
                raise Conflict(f"operation {operation_id} is a {told.kind}")
            return told
        if told.state == "running":
            raise Conflict(f"a {told.kind} is under way ({told.id}, since {_as_text(told.started_s)}): one at a time")
        return None

    def start(self, begun: Operation, work: Work) -> Operation:
        """Raises Conflict when another one came before."""
        with self._lock:
            if self._last is not None and self._last.tell().state == "running":
                raise Conflict("another operation has begun at the same moment: one at a time")
            self._last = running = _Running(begun, work, self._clock)
            running.start()
        log.info("%s %s begins", begun.kind, begun.id)
        return running.tell()

    def tell(self, operation_id: str) -> Operation:
        return self._find(operation_id).tell()

    def stop(self, operation_id: str) -> Operation:
        running = self._find(operation_id)
        running.stop(STOP_S)
        return running.tell()

    def close(self) -> None:
        """Before the engine is closed."""
        with self._lock:
            running = self._last
        if running is not None:
            running.stop(CLOSE_S)

    def _find(self, operation_id: str) -> _Running:
        with self._lock:
            last = self._last
        if last is None or last.operation_id != operation_id:
            raise OperationNotFound(
                f"this server knows no operation {operation_id}: it was restarted, or others came after"
            )
        return last


class _Running:
    """One operation and its two threads: one works, the other stops it."""

    def __init__(self, begun: Operation, work: Work, clock: Callable[[], float]) -> None:
        self.operation_id = begun.id
        self._work = work
        self._clock = clock
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards the two below
        self._operation = begun
        self._asked_s = self._clock()

    def start(self) -> None:
        threading.Thread(target=self._run, name="operation", daemon=True).start()
        threading.Thread(target=self._watch, name="operation-watch", daemon=True).start()

    def tell(self) -> Operation:
        with self._lock:
            self._asked_s = self._clock()
            if self._operation.state != "running":
                return self._operation
            return self._work.tell(self._operation)

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._ended.wait(timeout_s)

    def _run(self) -> None:
        trouble = ""
        try:
            self._work.run(self._stopping)
        except EngineError as exc:
            trouble = str(exc)
        except Exception:
            log.exception("an operation failed for a reason that is a defect")
            trouble = "internal error"
        with self._lock:
            told = self._work.tell(self._operation)
            state: OperationState = "failed" if trouble else "stopped" if self._stopping.is_set() else "done"
            self._operation = replace(told, state=state, trouble=trouble, ended_s=time.time())
        self._ended.set()
        log.info("%s %s is %s%s", told.kind, told.id, state, f": {trouble}" if trouble else "")

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            with self._lock:
                unwatched_s = self._clock() - self._asked_s
            if unwatched_s >= UNWATCHED_S:
                self._stopping.set()
            if self._stopping.is_set():
                self._work.interrupt()


def _as_text(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
