"""A check that many requests ask and that is made by one of them at a time, at most once in a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wire.errors import InternalError, Overloaded, SpeedyError, StorageFull, Unavailable

#: how long a failure is told without asking again: what is back is not refused for longer
FAILURE_KEEP_S = 0.1


class CachedCheck:
    """Calls `check` at most every `keep_s` seconds and answers with its last outcome in between; after a failure, at
    most every FAILURE_KEEP_S.

    While one caller waits for `check`, the others get the outcome before it: what is slow must not line them up. Before
    the first outcome they pass. With `late_s` the outcome before counts only until a check has gone on for so long:
    then it is Unavailable. Callers wait for the first outcome until then. `detached` makes the check in a thread of its
    own, so that nobody at all waits longer than `late_s`, which must be given.
    """

    def __init__(
        self,
        check: Callable[[], object],
        keep_s: float = 1.0,
        *,
        late_s: float | None = None,
        detached: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert late_s is not None or not detached
        self._check = check
        self._keep_s = keep_s
        self._late_s = late_s
        self._detached = detached
        self._clock = clock
        self._answered = threading.Condition()
        self._asking_since_s: float | None = None
        self._asked_s: float | None = None
        self._failure: SpeedyError | None = None

    def __call__(self) -> None:
        """Return, or raise the error that `check` raised."""
        with self._answered:
            keep_s = self._keep_s if self._failure is None else min(self._keep_s, FAILURE_KEEP_S)
            fresh = self._asked_s is not None and self._clock() - self._asked_s < keep_s
            ask = not fresh and self._asking_since_s is None
            if ask:
                self._asking_since_s = self._clock()
            failure = None if ask else self._outcome_before()
        if ask:
            failure = self._ask_detached() if self._detached else self._ask()
        if failure is not None:
            # A new object for each caller: a raised one collects the tracebacks of everybody who raises it.
            raise type(failure)(failure.message, **failure.details)

    def _outcome_before(self) -> SpeedyError | None:
        """`_answered` is held."""
        if self._late_s is not None and self._asking_since_s is not None:
            left_s = self._asking_since_s + self._late_s - self._clock()
            if self._asked_s is None:
                answered = self._answered.wait_for(lambda: self._asked_s is not None, max(0.0, left_s))
            else:
                answered = left_s > 0
            if not answered:
                return self._failure or Unavailable(f"what is checked has not answered for {self._late_s:g} s")
        return self._failure

    def _ask_detached(self) -> SpeedyError | None:
        try:
            threading.Thread(target=self._ask, name="check", daemon=True).start()
        except RuntimeError as error:
            with self._answered:
                self._asking_since_s = None  # the next caller tries again
            return Overloaded(f"there is no thread for the check: {error}")
        with self._answered:
            if not self._answered.wait_for(lambda: self._asking_since_s is None, self._late_s):
                return Unavailable(f"what is checked has not answered for {self._late_s:g} s")
            return self._failure

    def _ask(self) -> SpeedyError | None:
        failure: SpeedyError | None = InternalError("the check broke")  # unless it comes to an end
        try:
            self._check()
            failure = None
        except SpeedyError as exc:
            failure = exc
        finally:
            with self._answered:
                self._asking_since_s, self._asked_s, self._failure = None, self._clock(), failure
                self._answered.notify_all()
        return failure


def unless_full(check: Callable[[], object]) -> Callable[[], None]:
    """`check` for who only reads: what is full serves all the same."""

    def serves() -> None:
        try:
            check()
        except StorageFull:
            return

    return serves
