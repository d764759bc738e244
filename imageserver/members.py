"""What this process knows of the members it talks to: an open store for each, and which of them failed a moment ago.

The ChunkMaster's table says how members are by their heartbeats, seconds late and from the master's side of the
network. The failures remembered here are this process's own, and only put a member off: they never exclude it for
good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from chunkmaster.interface import Member
from chunkserver.interface import ChunkStore


@dataclass(frozen=True, slots=True)
class PenaltyLimits:
    """A member that failed is avoided for `first_s`, doubling with every further failure up to `max_s`."""

    first_s: float = 2.0
    max_s: float = 30.0


class MemberBook:
    """Thread-safe. `open_store` makes a ChunkStore for a member; every call on such a store must end by itself (a local
    engine, or an HTTP client with time-outs): a reader fills its caller's buffer in the calling thread."""

    def __init__(
        self,
        open_store: Callable[[Member], ChunkStore],
        clock: Callable[[], float],
        limits: PenaltyLimits | None = None,
    ) -> None:
        self._open_store = open_store
        self._clock = clock
        self._limits = limits or PenaltyLimits()
        self._lock = threading.Lock()
        self._stores: dict[str, tuple[str, ChunkStore]] = {}
        self._penalties: dict[str, tuple[int, float]] = {}  # server id -> (failures in a row, avoided until)

    def store(self, member: Member) -> ChunkStore:
        """The member's store, opened once per address."""
        known = self._stores.get(member.server_id)
        if known is not None and known[0] == member.url:
            return known[1]
        with self._lock:
            known = self._stores.get(member.server_id)
            if known is None or known[0] != member.url:
                # A server that moved gets a new store; calls that run on the old one end on their own.
                known = (member.url, self._open_store(member))
                self._stores[member.server_id] = known
            return known[1]

    def failed(self, server_id: str) -> None:
        with self._lock:
            failures = self._penalties.get(server_id, (0, 0.0))[0] + 1
            penalty_s = min(self._limits.max_s, self._limits.first_s * 2 ** min(failures - 1, 16))
            self._penalties[server_id] = (failures, self._clock() + penalty_s)

    def succeeded(self, server_id: str) -> None:
        if server_id in self._penalties:  # without the lock: the usual case must cost nothing
            with self._lock:
                self._penalties.pop(server_id, None)

    def avoided(self, server_id: str) -> bool:
        penalty = self._penalties.get(server_id)
        return penalty is not None and self._clock() < penalty[1]

    def forget_others(self, server_ids: frozenset[str]) -> None:
        """Drop what is known of members that are no longer in the group table."""
        with self._lock:
            for server_id in [s for s in self._stores if s not in server_ids]:
                del self._stores[server_id]
            for server_id in [s for s in self._penalties if s not in server_ids]:
                del self._penalties[server_id]
