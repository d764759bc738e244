"""Compact: has the engine move live chunks out of volumes now, and tells how far it is meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from chunkserver.disks import Chunks
from chunkserver.interface import Operation
from native.errors import EngineError
from native.values import CompactionReport, VolumeInfo


class Compact:
    """Of those among `volumes` whose live share is below `below`; `named`: of these, whatever their live share is."""

    def __init__(
        self, engine: Chunks, volumes: Sequence[VolumeInfo], named: tuple[int, ...], below: float, bytes_s: int
    ) -> None:
        self._engine = engine
        self._named = named
        self._below = below
        self._bytes_s = bytes_s
        self._total_bytes = sum(volume.live_bytes for volume in volumes if named or _is_worth_it(volume, below))
        self._before = engine.stat()
        self._report: CompactionReport | None = None
        self._left: tuple[int, ...] = ()

    def run(self, stopping: threading.Event) -> None:
        report = self._engine.compact(self._below, self._bytes_s, self._named)
        there = {volume.id for volume in self._engine.volumes()}
        self._left = tuple(volume for volume in self._named if volume in there)
        self._report = report
        if report.stopped:
            stopping.set()

    def interrupt(self) -> None:
        with suppress(EngineError):  # closed meanwhile, which ends it too
            self._engine.cancel_compaction()

    def tell(self, operation: Operation) -> Operation:
        if self._report is not None:
            return replace(
                operation,
                total_bytes=self._total_bytes,
                done_bytes=self._report.bytes_copied,
                chunks=self._report.chunks_copied,
                given_back_bytes=self._report.bytes_given_back,
                volumes_removed=self._report.volumes_removed,
                volumes_made=self._report.volumes_made,
                volumes_damaged=self._report.volumes_damaged,
                volumes_left=self._left,
            )
        try:
            now = self._engine.stat()
        except EngineError:
            return operation
        return replace(
            operation,
            total_bytes=self._total_bytes,
            done_bytes=now.compacted_bytes - self._before.compacted_bytes,
            given_back_bytes=now.given_back_bytes - self._before.given_back_bytes,
        )


def _is_worth_it(volume: VolumeInfo, below: float) -> bool:
    """About what the engine will find."""
    taken_bytes = volume.allocated_bytes - volume.punched_bytes
    return volume.state in ("sealed", "active") and volume.live_bytes < below * taken_bytes
