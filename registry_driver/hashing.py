"""Hashing a stream beside receiving it: buffers in order, in one helper task at a time.

Digest.update releases the GIL, so a stream's bytes are hashed on one core while the next ones are received on
another. A digest is sequential: there is never more than one task per stream. A task is one piece: streams whose bytes
come faster than they are hashed take turns, and an idle stream holds no thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from native.digest import Digest

#: called with the digest's state behind the piece, or with what went wrong
Hashed = Callable[[bytes | None, BaseException | None], None]


class HashLane:
    """Thread-safe. `digest` must be touched by nobody else until every piece's `done` was called."""

    def __init__(self, digest: Digest, executor: Executor) -> None:
        self._digest = digest
        self._executor = executor
        self._lock = threading.Lock()
        self._pieces: deque[tuple[memoryview, Hashed]] = deque()
        self._running = False
        self._error: BaseException | None = None

    def add(self, piece: memoryview, done: Hashed) -> None:
        """Hash `piece` behind all that were added before; `done` is called in the helper's thread and must not wait."""
        with self._lock:
            self._pieces.append((piece, done))
            if self._running:
                return
            self._running = True
        try:
            self._executor.submit(self._run)
        except BaseException:
            with self._lock:
                self._running = False
                self._pieces.pop()
            raise

    def _run(self) -> None:
        while self._hash_next():
            try:
                self._executor.submit(self._run)  # behind the streams that wait for a thread
            except RuntimeError:  # the executor is closing: what was added is hashed all the same
                continue
            return

    def _hash_next(self) -> bool:
        """Hash one piece; whether there are more. False leaves the lane to the next add()."""
        with self._lock:
            piece, done = self._pieces.popleft()
        state: bytes | None = None
        if self._error is None:  # behind a gap the state would be that of other bytes
            try:
                self._digest.update(piece)
                state = self._digest.export_state()
            except BaseException as error:  # noqa: BLE001 - handed to the stream's own thread
                self._error = error
        del piece
        done(state, self._error)
        with self._lock:
            self._running = bool(self._pieces)
            return self._running
