"""A check that many requests ask and that is made at most once in a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wire.errors import SpeedyError


class CachedCheck:
    """Calls `check` at most every `keep_s` seconds and answers with its last outcome in between.

    While one caller waits for `check`, the others get the outcome before it: a slow ImageServer must not line them up.
    """

    def __init__(
        self, check: Callable[[], None], keep_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._check = check
        self._keep_s = keep_s
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = False
        self._asked_s: float | None = None
        self._failure: SpeedyError | None = None

    def __call__(self) -> None:
        """Return, or raise the error that `check` raised."""
        with self._lock:
            fresh = self._asked_s is not None and self._clock() - self._asked_s < self._keep_s
            ask = not fresh and not self._asking
            self._asking = self._asking or ask
            failure = self._failure
        if ask:
            failure = self._ask()
        if failure is not None:
            # A new object for each caller: a raised one collects the tracebacks of everybody who raises it.
            raise type(failure)(failure.message, **failure.details)

    def _ask(self) -> SpeedyError | None:
        failure: SpeedyError | None = None
        try:
            self._check()
        except SpeedyError as exc:
            failure = exc
        finally:
            with self._lock:
                self._asking, self._asked_s, self._failure = False, self._clock(), failure
        return failure
