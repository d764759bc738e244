"""Whether a server that lets its callers wait still lives.

A call without an answer looks the same whether the server is busy or stands still (stopped, hung as a whole, its
machine gone). But /healthz has threads of its own in every room and waits for nothing: who does not answer that stands
still. So a caller that has others to turn to need not use up all of its time on it.

    with pulse.watched():                 # raises at once while the server is known to stand still
        client.upload(...)                # DeadlineExceeded soon after the server fell silent, not after the time-out

Such a server is asked again and again by one thread, so that it is used as soon as it answers and nobody else has to
try it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from wire.auth import ClusterKey
from wire.errors import DeadlineExceeded, SpeedyError, Unavailable
from wire.http import ServiceClient
from wire.transport import StandsStill, watch

log = logging.getLogger("speedy.wire")

#: how long /healthz may take before the server counts as standing still
ANSWER_S = 2.0

#: how long one answer of /healthz is believed, however many callers wait
KEEP_S = 1.0

#: one question to a server that stands still: long, because it is answered the moment the server goes on, while each
#: new one is one more that it finds waiting then
AGAIN_S = 30.0
AGAIN_PAUSE_S = 1.0

#: questions before it is left to the next caller to find out (a server may be gone for good, or have another address)
AGAIN_MAX = 60


def is_alone(pulse: Pulse, pulses: Iterable[Pulse]) -> bool:
    """All but this one stand still: it is worth waiting for, since there is nobody else."""
    return all(other.still for other in pulses if other is not pulse)


class Pulse:
    """Thread-safe; for one server. close() ends the thread that waits for a server to come back."""

    def __init__(
        self,
        base_url: str,
        key: ClusterKey,
        *,
        connect_timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = ServiceClient(base_url, key, connect_timeout_s=connect_timeout_s, attempts_max=1, pool_max=1)
        self._clock = clock
        self._lock = threading.Lock()
        self._answered_s: float | None = None
        self._still = False
        self._closed = threading.Event()

    @property
    def still(self) -> bool:
        """It did not answer, and has not since."""
        return self._still

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Calls inside end early when the server stands still. Raises DeadlineExceeded when it is known to."""
        if self._still:
            error = DeadlineExceeded(self._told())
            error.unsent = True
            raise error
        token = watch.set(self.check)
        try:
            yield
        finally:
            watch.reset(token)

    def check(self) -> None:
        """For who has waited in vain for a while: return when the server lives, raise StandsStill when not. One caller
        asks it, the others wait for the answer (ANSWER_S and the time for connecting)."""
        with self._lock:
            if not self._still:
                if self._answered_s is not None and self._clock() - self._answered_s < KEEP_S:
                    return
                if self._answers(ANSWER_S):
                    self._answered_s = self._clock()
                    return
                self._give_up()
        raise StandsStill(self._told())

    def close(self) -> None:
        self._closed.set()
        self._client.close()

    def _give_up(self) -> None:
        log.warning(self._told())
        self._still = True  # first: the thread may have heard of the server before start() returns
        try:
            threading.Thread(target=self._until_it_answers, name="pulse", daemon=True).start()
        except RuntimeError:
            self._still = False  # no thread to be had: the next caller finds out anew

    def _until_it_answers(self) -> None:
        try:
            for _ in range(AGAIN_MAX):
                if self._answers(AGAIN_S):
                    log.info("%s answers again", self._client.base_url)
                    break
                if self._closed.wait(AGAIN_PAUSE_S):
                    break
        finally:
            self._still = False  # whatever ended this: nobody asks any more

    def _answers(self, timeout_s: float) -> bool:
        token = watch.set(None)  # who asks is a watched call itself
        try:
            # Over a connection of its own: a kept one would be the first to be stale.
            self._client.json("GET", "/healthz", read_timeout_s=timeout_s, fresh=True)
        except Unavailable:
            return False
        except SpeedyError:
            return True  # whatever it says, it speaks
        finally:
            watch.reset(token)
        return True

    def _told(self) -> str:
        return f"{self._client.base_url} stands still: /healthz is not answered"
