"""How many requests of a kind may run and wait at the same time, and who has to leave when others wait.

Uploads, downloads and small requests have gates of their own, so that two hundred slow pulls do not keep a HEAD from
its answer. Every request occupies a server thread, also while it waits: the sum of all gates' `running_max +
waiting_max` must stay below the number of threads. The rest refuses who finds no place, and reads out some of the
bodies that were refused. Health and metrics have threads of their own (wire.worker).

A place must not be had for nothing: where all are taken and somebody wants one, a transfer whose client has moved no
byte for a while, or too few for long, is ended and its place goes to who waits. While there is room nobody is ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from wire.errors import Overloaded
from wire.transfer import Transfer

log = logging.getLogger("speedy.admission")

#: what a caller waits beyond the time after which a silent transfer gives its place up
_WAIT_MARGIN_S = 2.0

#: how long a caller waits at least: containerd asks for all layers of an image at once and takes a refusal of one for
#: the end, but it also ends where no answer has come 30 s after its last byte
_WAIT_S_MIN = 20.0

#: time between two looks at what runs; and the shortest one, however many callers begin to wait
_LOOK_S = 0.5
_LOOK_S_MIN = 0.05


@dataclass(frozen=True, slots=True)
class Patience:
    """With clients whose place another one wants: they are ended when they were silent for `stalled_after_s`, or moved
    fewer than `slow_bytes_per_s` on average over `slow_window_s` (0: never)."""

    stalled_after_s: float = 5.0
    slow_bytes_per_s: int = 16 * 1024
    slow_window_s: float = 60.0

    def reason(self, transfer: Transfer) -> str | None:
        """Why this transfer has to leave when another one waits."""
        if transfer.silent_s >= self.stalled_after_s:
            return f"no byte moved for {transfer.silent_s:.1f} s while others waited for a place"
        pace = transfer.bytes_per_s
        if pace is not None and pace < self.slow_bytes_per_s:
            return f"{pace:.0f} bytes per second over {self.slow_window_s:g} s while others waited for a place"
        return None


@dataclass(frozen=True, slots=True)
class GateLimits:
    """`retry_after_s`: when who was refused should come again; stalled transfers have left by then."""

    running_max: int
    waiting_max: int
    wait_s: float = 20.0
    retry_after_s: float = 7.0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    uploads: GateLimits
    downloads: GateLimits
    small: GateLimits
    #: Manifests are parsed in memory, at some twenty times their size in the worst case.
    manifests: GateLimits

    @classmethod
    def within(
        cls,
        threads: int,
        *,
        uploads_max: int,
        downloads_max: int,
        requests_max: int,
        waiting_max: int,
        stalled_after_s: float = 5.0,
    ) -> AdmissionLimits:
        """As much as is wished for and fits into `threads` server threads, of which an eighth stays free.

        Where more is wished for than there are threads, all that runs shrinks alike, to three quarters of them; what is
        left is for waiting, at each gate alike.
        """
        wished = {"uploads": uploads_max, "downloads": downloads_max, "small": requests_max, "manifests": 8}
        places = threads - max(1, threads // 8)
        share = min(1.0, 0.75 * places / sum(wished.values()))
        running = {name: max(1, int(running_max * share)) for name, running_max in wished.items()}
        waiting = min(waiting_max, max(0, places - sum(running.values())) // len(running))
        retry_after_s = stalled_after_s + _WAIT_MARGIN_S
        wait_s = max(retry_after_s, _WAIT_S_MIN)
        return cls(**{name: GateLimits(number, waiting, wait_s, retry_after_s) for name, number in running.items()})

    @property
    def threads_max(self) -> int:
        """Server threads that admitted requests can occupy at most."""
        return sum(
            gate.running_max + gate.waiting_max for gate in (self.uploads, self.downloads, self.small, self.manifests)
        )


class Gate:
    """Lets `running_max` callers through and `waiting_max` more wait for them, in order, each at most `wait_s`."""

    def __init__(self, name: str, limits: GateLimits, patience: Patience | None = None) -> None:
        self._name = name
        self._limits = limits
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._running: dict[Pass, Transfer | None] = {}
        self._ending: set[Pass] = set()
        self._waiting: deque[_Waiter] = deque()
        self._turned_away_s: float | None = None
        #: set when a caller finds no place
        self.wanted = threading.Event()

    def enter(self, transfer: Transfer | None = None) -> Pass:
        """A pass, to be released once, and before the transfer's connection is closed. Raises Overloaded.

        `transfer` (None: of no interest) may be ended from now on until the release.
        """
        waiter = _Waiter(Pass(self), transfer)
        with self._lock:
            # While anybody waits no place is free: leave() hands over. So nobody is overtaken here.
            if len(self._running) < self._limits.running_max:
                self._running[waiter.held] = transfer
                return waiter.held
            if len(self._waiting) >= self._limits.waiting_max:
                raise self._overloaded()
            self._waiting.append(waiter)
        self.wanted.set()
        waiter.admitted.acquire(timeout=self._limits.wait_s)
        with self._lock:
            if waiter.held in self._running:
                return waiter.held
            self._waiting.remove(waiter)
            raise self._overloaded()

    def leave(self, held: Pass) -> None:
        with self._lock:
            del self._running[held]
            self._ending.discard(held)
            if self._waiting:
                waiter = self._waiting.popleft()
                self._running[waiter.held] = waiter.transfer
                waiter.admitted.release()

    def relieve(self, now_s: float) -> None:
        """Look at all transfers, and end the worst ones of which places are wanted."""
        with self._lock:
            for transfer in self._running.values():
                if transfer is not None:
                    transfer.observe(now_s)
            free = self._limits.running_max - len(self._running)
            wanted = len(self._waiting) + self._expected(now_s) - free - len(self._ending)
            for held, transfer, why in self._dispensable()[: max(0, wanted)]:
                # Under the lock: the pass is not released before, so the connection is still this request's.
                transfer.end(why)
                self._ending.add(held)
                log.info("transfer ended", extra={"gate": self._name, "why": why})

    def _expected(self, now_s: float) -> int:
        """Who was turned away will come again: there should be a place then."""
        return int(self._turned_away_s is not None and now_s - self._turned_away_s < 2 * self._limits.retry_after_s)

    def _dispensable(self) -> list[tuple[Pass, Transfer, str]]:
        """The transfers that have to leave when others wait, longest silence first, then the slowest."""
        found = [
            (held, transfer, why)
            for held, transfer in self._running.items()
            if transfer is not None and held not in self._ending and (why := self._patience.reason(transfer))
        ]
        found.sort(key=lambda one: (-one[1].silent_s, one[1].bytes_per_s or 0.0))
        return found

    def _overloaded(self) -> Overloaded:
        self._turned_away_s = time.monotonic()
        self.wanted.set()
        return Overloaded(
            f"too many {self._name} at the same time, try again soon",
            retry_after_s=max(1, round(self._limits.retry_after_s)),
        )


class Pass:
    """The right to run. Releasing it again does nothing, so that the end of a request and the end of its response may
    both do it."""

    __slots__ = ("_gate", "_lock")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate
        self._lock = threading.Lock()

    def release(self) -> None:
        with self._lock:
            gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave(self)


class _Waiter:
    __slots__ = ("admitted", "held", "transfer")

    def __init__(self, held: Pass, transfer: Transfer | None) -> None:
        self.held = held
        self.transfer = transfer
        self.admitted = threading.Lock()
        self.admitted.acquire()


class Admission:
    """The gates of one registry process, and the thread that ends what stalls while others wait (start, close)."""

    def __init__(self, limits: AdmissionLimits, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self.uploads = Gate("uploads", limits.uploads, self.patience)
        self.downloads = Gate("downloads", limits.downloads, self.patience)
        self.small = Gate("requests", limits.small, self.patience)
        self.manifests = Gate("manifest pushes", limits.manifests, self.patience)
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)
        for gate in self._gates:
            gate.wanted = self._wanted

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread, which start() has started."""
        self._stopped.set()
        self._wanted.set()
        self._thread.join(timeout_s)

    @property
    def _gates(self) -> tuple[Gate, ...]:
        return self.uploads, self.downloads, self.small, self.manifests

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S_MIN):
            self._wanted.wait(_LOOK_S)
            self._wanted.clear()
            for gate in self._gates:
                gate.relieve(time.monotonic())
