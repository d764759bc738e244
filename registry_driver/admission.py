"""How many requests of a kind may run and wait at the same time.

Uploads, downloads and small requests have gates of their own, so that two hundred slow pulls do not keep a HEAD from
its answer. Every request occupies a server thread, also while it waits: the sum of all gates' `running_max +
waiting_max` must stay below the number of threads, and the rest belongs to /healthz, /readyz and /metrics, which pass
no gate.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wire.errors import Overloaded


@dataclass(frozen=True, slots=True)
class GateLimits:
    running_max: int
    waiting_max: int
    wait_s: float = 5.0


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    uploads: GateLimits = GateLimits(running_max=24, waiting_max=8)
    downloads: GateLimits = GateLimits(running_max=24, waiting_max=8)
    small: GateLimits = GateLimits(running_max=16, waiting_max=8)
    #: Manifests are parsed in memory, at some twenty times their size in the worst case.
    manifests: GateLimits = GateLimits(running_max=4, waiting_max=8)

    @classmethod
    def within(cls, threads: int, *, uploads_max: int, downloads_max: int, requests_max: int) -> AdmissionLimits:
        """As much as is wished for and fits into `threads` server threads, of which an eighth stays free.

        Where more is wished for than there are threads, all shrink alike. A quarter of each gate's places is for
        waiting.
        """
        wished = {"uploads": uploads_max, "downloads": downloads_max, "small": requests_max, "manifests": 8}
        places = threads - max(1, threads // 8)
        share = min(1.0, 0.75 * places / sum(wished.values()))
        gates: dict[str, GateLimits] = {}
        for name, running_max in wished.items():
            running = max(1, int(running_max * share))
            gates[name] = GateLimits(running_max=running, waiting_max=running // 3)
        return cls(**gates)

    @property
    def threads_max(self) -> int:
        """Server threads that admitted requests can occupy at most."""
        return sum(
            gate.running_max + gate.waiting_max for gate in (self.uploads, self.downloads, self.small, self.manifests)
        )


class Gate:
    """Lets `running_max` callers through and `waiting_max` more wait for them, each at most `wait_s`."""

    def __init__(self, name: str, limits: GateLimits) -> None:
        self._name = name
        self._limits = limits
        self._places = threading.BoundedSemaphore(limits.running_max + limits.waiting_max)
        self._slots = threading.BoundedSemaphore(limits.running_max)

    def enter(self) -> Pass:
        """A pass, to be released once. Raises Overloaded."""
        if not self._places.acquire(blocking=False):
            raise self._overloaded()
        if not self._slots.acquire(timeout=self._limits.wait_s):
            self._places.release()
            raise self._overloaded()
        return Pass(self)

    def leave(self) -> None:
        self._slots.release()
        self._places.release()

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"too many {self._name} at the same time, try again soon", retry_after_s=max(1, round(self._limits.wait_s))
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
            gate.leave()


class Admission:
    """The gates of one registry process."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self.uploads = Gate("uploads", limits.uploads)
        self.downloads = Gate("downloads", limits.downloads)
        self.small = Gate("requests", limits.small)
        self.manifests = Gate("manifest pushes", limits.manifests)
