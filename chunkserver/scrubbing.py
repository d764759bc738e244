"""The thread that scrubs: when a round begins, at which rate it goes on, and who is told what it found.

A round begins by itself `every_s` after the last one began, or when somebody asks for it. The engine keeps where it is
(over restarts too) and verifies; this decides only when the next step is due. A step is short, so stopping is prompt.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from chunkserver.disks import Chunks
from chunkserver.interface import ScrubState, ScrubStatus
from native.errors import EngineError
from native.values import ScrubProgress
from wire.errors import BadRequest

log = logging.getLogger("speedy.chunkserver")

STEP_BYTES = 4 * 1024 * 1024
#: after an error that is none of the chunks' (no memory), and at most between two looks at the calendar
RETRY_S = 60.0
#: more lines than this per process would only fill the log: GET /v1/scrub has them all
LOGGED_MAX = 1000


@dataclass(frozen=True, slots=True)
class ScrubLimits:
    """`bytes_s`: bytes per second (0: no round begins or goes on by itself). `first_after_s`: rest after a start."""

    bytes_s: int = 16 * 1024 * 1024
    every_s: float = 7 * 86400.0
    first_after_s: float = 60.0


class Scrubber:
    """Scrubs `engine` from `start` to `stop`. Thread-safe."""

    def __init__(self, engine: Chunks, limits: ScrubLimits) -> None:
        self._engine = engine
        self._limits = limits
        self._changed = threading.Condition()  # guards the six below
        self._changes = 0  # who works outside the lock and wants to wait afterwards sees by it that something came
        self._stopping = False
        self._paused = False
        self._by_hand = False  # the round under way was asked for
        self._bytes_s: int | None = None  # its rate, when that was said
        self._rest_until_s = time.monotonic() + limits.first_after_s
        self._logged: set[tuple[int, int]] = set()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Before the engine is closed."""
        with self._changed:
            self._stopping = True
            self._tell()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def run_now(self, *, fresh: bool, bytes_s: int | None) -> None:
        """Begin a round, or let the one under way go on. Raises BadRequest when no rate is known."""
        if bytes_s is None and self._limits.bytes_s == 0:
            raise BadRequest("this server does not scrub by itself (chunkserver.scrub_bytes_s is 0): say a rate")
        # Not under the lock: it waits for the disk, and whoever asks how the scrub is need not.
        if fresh or not self._engine.scrub_status().active:
            self._engine.scrub_start()
        with self._changed:
            self._paused = False
            self._by_hand = True
            self._bytes_s = bytes_s
            self._tell()

    def pause(self) -> None:
        with self._changed:
            self._paused = True
            self._tell()

    def _tell(self) -> None:
        """`_changed` is held."""
        self._changes += 1
        self._changed.notify_all()

    def status(self) -> ScrubStatus:
        with self._changed:
            told, damage, stat = self._engine.scrub_status(), self._engine.scrub_damage(), self._engine.stat()
            return ScrubStatus(
                state=self._state(told),
                round=told.round,
                rounds=stat.scrub_rounds,
                started_s=told.started_s,
                ended_s=told.ended_s,
                total_bytes=told.total_bytes,
                checked_bytes=told.checked_bytes,
                checked_chunks=told.checked_chunks,
                damaged=told.damaged,
                volume=told.volume,
                offset=told.offset,
                bytes_s=self._rate(),
                known_damaged=stat.scrub_damaged,
                damage=tuple(damage),
            )

    def _rate(self) -> int:
        return self._limits.bytes_s if self._bytes_s is None else self._bytes_s

    def _state(self, told: ScrubProgress) -> ScrubState:
        if self._paused:
            return "paused"
        if self._rate() == 0:
            return "off"
        return "running" if told.active else "idle"

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                try:
                    wait_s = self._due_in_s()
                except EngineError as exc:
                    log.warning("the scrub waits: %s", exc)
                    wait_s = RETRY_S
                if wait_s is None or wait_s > 0:
                    self._changed.wait(RETRY_S if wait_s is None else min(wait_s, RETRY_S))
                    continue
                rate, changes = self._rate(), self._changes
            try:
                wait_s = self._step(rate)
            except EngineError as exc:
                log.warning("the scrub waits: %s", exc)
                wait_s = RETRY_S
            if wait_s > 0:
                with self._changed:
                    if changes == self._changes:
                        self._changed.wait(min(wait_s, RETRY_S))

    def _due_in_s(self) -> float | None:
        """0: a step is due; else until when, None for not by itself. `_changed` is held."""
        if self._paused or self._rate() == 0:
            return None
        rest_s = self._rest_until_s - time.monotonic()
        if not self._by_hand and rest_s > 0:
            return rest_s
        told = self._engine.scrub_status()
        if told.active:
            return 0.0
        self._by_hand = False
        self._bytes_s = None
        return self._next_round_in_s(told) if self._limits.bytes_s > 0 else None

    def _next_round_in_s(self, told: ScrubProgress) -> float:
        """0: it is due."""
        since_s = time.time() - told.started_s
        # A start in the future is a clock that was set back: not waited for.
        if told.round > 0 and 0 <= since_s < self._limits.every_s:
            return self._limits.every_s - since_s
        if self._engine.stat().chunks == 0:
            return RETRY_S  # nothing to check: no file is written for that
        return 0.0

    def _step(self, bytes_s: int) -> float:
        """One step, of a new round if none is under way; how long to wait before the next."""
        before = self._engine.scrub_status()
        if not before.active:
            self._engine.scrub_start()
            log.info("scrub round %d begins", before.round + 1)
        told = self._engine.scrub_step(STEP_BYTES, bytes_s)
        if told.damaged > 0:
            self._log_damage()
        if not told.active:
            log.info("scrub round %d has ended: %d chunks, %d damaged", told.round, told.checked_chunks, told.damaged)
        return told.wait_s

    def _log_damage(self) -> None:
        for found in self._engine.scrub_damage():
            place = (found.volume, found.offset)
            if place in self._logged or len(self._logged) >= LOGGED_MAX:
                continue
            self._logged.add(place)
            log.error(
                "the scrub found %s damaged: %s (volume %d, offset %d)",
                f"chunk {found.fid}" if found.fid else "a superblock",
                found.what,
                found.volume,
                found.offset,
            )
