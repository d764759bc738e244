"""Opening the disks of a ChunkServer: which are there, which of them are its own, and what they are called.

Disk 0 is <data>/disk, there if it has been used or no others are given. The others are numbered in the order in which
they came, and keep their numbers: server.json lists them. One that is taken out of the setting is not looked for: what
is on it is missing. It may come back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from chunkserver.disk import Disk
from chunkserver.disks import Chunks, Disks
from chunkserver.due_deletes import DueDeletes
from native.engine import Engine, EngineOptions
from native.errors import EngineError, StoreFailed, StoreLocked, StoreMismatch

log = logging.getLogger("speedy.chunkserver")


def open_disks(
    data: Path, own: Path | None, paths: Sequence[Path], known: Sequence[str], options: EngineOptions
) -> tuple[Chunks, tuple[str, ...]]:
    """The stores of a server, and what is known of disks from now on. `data`: where it notes what concerns its disks;
    `own`: disk 0, None when there is none; `paths`: the others that shall be used; `known`: those that were, ever.
    A store is made where none was known, unless `options.create` is off.

    A disk that cannot be opened is down. Raises StoreLocked when another process has one, StoreMismatch for places that
    are not apart and for a new disk with chunks on it, and what the last disk met when none can be opened.
    """
    if own is not None and not paths and not known:
        return Engine.open(own, options), ()
    _check_apart([data / "disk", *paths])
    with ExitStack() as opened:
        opening = _Opening(data, known, options, opened)
        if own is not None:
            opening.open(own, 0)
        for path in paths:
            opening.open(path, _number(path, known))
        if not opening.disks:
            assert opening.trouble is not None
            raise opening.trouble
        opened.pop_all()
    numbers = {*range(1, 1 + len(known)), *([] if own is None else [0])} - {disk.number for disk in opening.disks}
    away = [DueDeletes(data, number) for number in sorted(numbers)]
    return Disks(opening.disks, opening.down, opening.unused, away), tuple(opening.names)


class _Opening:
    """`names`: of all disks from 1 on; `trouble`: what the last one met that could not be opened."""

    def __init__(self, data: Path, known: Sequence[str], options: EngineOptions, opened: ExitStack) -> None:
        self._data = data
        self._options = options
        self._opened = opened
        self.names = list(known)
        self.disks: list[Disk] = []
        self.down: list[str] = []
        self.unused = 0
        self.trouble: EngineError | None = None

    def open(self, path: Path, number: int | None) -> None:
        """`number` is None for a disk that was never used."""
        try:
            disk = self._disk(path, number)
        except (EngineError, OSError) as exc:
            if isinstance(exc, StoreLocked) or (number is None and isinstance(exc, StoreMismatch)):
                raise
            log.error("disk %s is not used: %s", path, exc)
            self.trouble = exc if isinstance(exc, EngineError) else StoreFailed(f"{path}: {exc}")
            if number is None:
                self.unused += 1
            else:
                self.down.append(str(self.trouble))
            return
        self._opened.callback(disk.close)
        if number is None:
            self.names.append(str(path))
        self.disks.append(disk)

    def _disk(self, path: Path, number: int | None) -> Disk:
        engine = Engine.open(path, replace(self._options, create=self._options.create and number is None))
        try:
            if number is None:
                if engine.stat().volumes > 0:
                    raise StoreMismatch(f"{path} holds chunks that this server did not put there")
                number = 1 + len(self.names)
            due = DueDeletes(self._data, number)
            if not self._options.read_only:
                due.settle(engine)
            return Disk(number, path, engine, due)
        except BaseException:
            engine.close()
            raise


def _number(path: Path, known: Sequence[str]) -> int | None:
    for number, name in enumerate(known, 1):
        if str(path) == name or os.path.realpath(path) == os.path.realpath(name):
            return number
    return None


def _check_apart(places: Sequence[Path]) -> None:
    real = [Path(os.path.realpath(place)) for place in places]
    for at, one in enumerate(real):
        for other_at, other in enumerate(real):
            if at == other_at:
                continue
            if one == other:
                raise StoreMismatch(f"{places[at]} and {places[other_at]} are one directory: each disk has its own")
            if other in one.parents:
                raise StoreMismatch(f"{places[at]} is inside {places[other_at]}: each disk has its own directory")
