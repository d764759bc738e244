"""Verify: reads the live chunks of volumes past the page cache, at a rate, and keeps what it found damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from chunkserver.disks import Chunks
from chunkserver.interface import Operation
from native.errors import VolumeNotFound
from native.values import Damage, Verification, VolumeInfo

STEP_BYTES = 4 * 1024 * 1024
DAMAGE_MAX = 1024
#: what may be made up for after a step that took long
BURST_S = 0.1


class Verify:
    """Of `volumes`, in their order."""

    def __init__(self, engine: Chunks, volumes: Sequence[VolumeInfo], bytes_s: int) -> None:
        self._engine = engine
        self._volumes = [volume.id for volume in volumes]
        self._bytes_s = bytes_s
        self._due_s = time.monotonic()
        self._lock = threading.Lock()  # guards what follows
        self._total_bytes = sum(volume.live_bytes for volume in volumes)
        self._done_bytes = 0
        self._chunks = 0
        self._damaged = 0
        self._damage: list[Damage] = []
        self._gone: list[int] = []

    def run(self, stopping: threading.Event) -> None:
        for volume in self._volumes:
            self._verify(volume, stopping)

    def interrupt(self) -> None:
        """A step is short."""

    def tell(self, operation: Operation) -> Operation:
        with self._lock:
            return replace(
                operation,
                total_bytes=self._total_bytes,
                done_bytes=self._done_bytes,
                chunks=self._chunks,
                damaged=self._damaged,
                damage=tuple(self._damage),
                volumes_gone=tuple(self._gone),
            )

    def _verify(self, volume: int, stopping: threading.Event) -> None:
        offset = 0
        while not stopping.is_set():
            try:
                told = self._engine.verify(volume, offset, STEP_BYTES)
            except VolumeNotFound:
                with self._lock:
                    self._gone.append(volume)
                return
            self._note(told)
            if told.ended:
                return
            offset = told.offset
            self._wait(told.read_bytes, stopping)

    def _note(self, told: Verification) -> None:
        with self._lock:
            self._done_bytes += told.checked_bytes
            self._chunks += told.checked_chunks
            self._damaged += len(told.damage)
            self._damage += told.damage[: DAMAGE_MAX - len(self._damage)]

    def _wait(self, read_bytes: int, stopping: threading.Event) -> None:
        if self._bytes_s == 0:
            return
        self._due_s = max(self._due_s, time.monotonic() - BURST_S) + read_bytes / self._bytes_s
        stopping.wait(max(0.0, self._due_s - time.monotonic()))
