"""How long a transfer goes on trying, and how it is told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from speedy.transfer.errors import Busy, NobodyThere, Stopped, TransferError

_Result = TypeVar("_Result")

#: a piece that is on its way when a run is stopped may take so long to arrive
GRACE_S: Final = 10.0


class Stop:
    """Tells all threads of a run to end. What is on its way may arrive within the grace: a registry that forgets a
    session whose request was cut then keeps it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requested = threading.Event()
        self._overdue_at_s = float("inf")

    def request(self, grace_s: float = GRACE_S) -> None:
        self._overdue_at_s = min(self._overdue_at_s, self._clock() + grace_s)
        self._requested.set()

    def check(self) -> None:
        """Raises Stopped where the run has been told to end."""
        if self._requested.is_set():
            raise Stopped("stopped")

    def check_overdue(self) -> None:
        """Raises Stopped when the grace is over."""
        if self._requested.is_set() and self._clock() > self._overdue_at_s:
            raise Stopped("stopped")

    def sleep(self, pause_s: float) -> None:
        """Waits; raises Stopped at once when told to end meanwhile."""
        if self._requested.wait(pause_s):
            raise Stopped("stopped")


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """`failures_max` in a row, without any progress between them, end a transfer. Pauses double up to `pause_max_s`."""

    failures_max: int = 8
    #: where nothing has answered yet: a registry that is being started, not one that is gone for a while
    nobody_there_max: int = 3
    pause_first_s: float = 0.5
    pause_max_s: float = 30.0
    #: a registry that asks for a longer wait (Retry-After) is asked again after this time
    retry_after_max_s: float = 300.0


class Patience:
    """Counts failures in a row."""

    def __init__(self, limits: RetryLimits, stop: Stop, tell: Callable[[str], None]) -> None:
        self._limits, self._stop, self._tell = limits, stop, tell
        self._failures = 0

    def progressed(self) -> None:
        self._failures = 0

    def failed(self, error: TransferError) -> None:
        """Waits before the next try. Raises `error` when there have been too many, Stopped when told to end."""
        self._failures += 1
        failures_max = self._limits.failures_max
        if isinstance(error, NobodyThere):
            failures_max = min(failures_max, self._limits.nobody_there_max)
        if self._failures > failures_max:
            raise error
        pause_s = min(self._limits.pause_max_s, self._limits.pause_first_s * 2 ** (self._failures - 1))
        pause_s *= random.uniform(0.75, 1.25)  # noqa: S311 - spreads clients, hides nothing
        if isinstance(error, Busy) and error.retry_after_s > 0:
            pause_s = min(error.retry_after_s, self._limits.retry_after_max_s)
        self._tell(f"{error.message}; trying again in {pause_s:.1f} s")
        self._stop.sleep(pause_s)


def patiently(
    action: Callable[[], _Result], limits: RetryLimits, stop: Stop, tell: Callable[[str], None] = lambda _: None
) -> _Result:
    """The result of `action`, which may be repeated, tried again while its error is one that may pass."""
    patience = Patience(limits, stop, tell)
    while True:
        stop.check()
        try:
            return action()
        except TransferError as error:
            if not error.retryable:
                raise
            patience.failed(error)
