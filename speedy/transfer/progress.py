"""What a person, or a program, sees of a transfer.

Bars     a line per layer that grows, on a terminal          Lines    a line per event, elsewhere
Json     an object per line                                   Quiet    nothing
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from speedy.tables import size as words_for_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_EVERY_S: Final = 10.0


class Bar(Protocol):
    """Of one layer, config or other blob, `total` bytes long."""

    def at(self, position: int) -> None:
        """So many bytes are there; may go back."""
        ...

    def done(self, how: str) -> None:
        """The blob is where it should be; `how` it came there: "pushed", "pulled", "exists", "mounted", ..."""
        ...


class Progress(Protocol):
    """Thread-safe. `with progress:` around the transfer."""

    def bar(self, label: str, total: int) -> Bar: ...

    def tell(self, message: str) -> None:
        """Something worth knowing that is no error: another try, a session that was lost."""
        ...

    def event(self, event: str, **says: Any) -> None:
        """For programs: the result, or the error that ended the transfer. People are told elsewhere."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def short(digest: str) -> str:
    """A digest as docker shows it: the first 12 digits."""
    return digest.partition(":")[2][:12]


def choose(*, quiet: bool, as_json: bool, is_terminal: bool) -> Progress:
    if as_json:
        return Json(lambda line: print(line, flush=True))
    if quiet:
        return Quiet()
    if is_terminal:
        return Bars()
    return Lines(_write_line)


def _write_line(line: str) -> None:
    # In one call: print() writes the line's end in a second one, and another thread's line may come between.
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Quiet:
    def event(self, event: str, **says: Any) -> None:
        pass

    def bar(self, label: str, total: int) -> Bar:
        return _NoBar()

    def tell(self, message: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _NoBar:
    def at(self, position: int) -> None:
        pass

    def done(self, how: str) -> None:
        pass


class Lines(Quiet):
    """A line when a blob is done, and one every ten seconds while it is on its way."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock

    def bar(self, label: str, total: int) -> Bar:
        return _LineBar(label, total, self._write, self._clock)

    def tell(self, message: str) -> None:
        self._write(message)


class _LineBar:
    def __init__(self, label: str, total: int, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._label, self._total, self._write, self._clock = label, total, write, clock
        self._told_s = clock()

    def at(self, position: int) -> None:
        if self._clock() - self._told_s >= _LINE_EVERY_S:
            self._told_s = self._clock()
            percent = 100 * position // max(1, self._total)
            self._write(f"{self._label}: {words_for_size(position)} of {words_for_size(self._total)} ({percent} %)")

    def done(self, how: str) -> None:
        self._write(f"{self._label}: {how} ({words_for_size(self._total)})")


class Json(Quiet):
    """{"event": "blob", "blob": ..., "position": ..., "total": ...}: at most one per blob and second while it moves."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()

    def event(self, event: str, **says: Any) -> None:
        with self._lock:
            self._write(json.dumps({"event": event, **says}))

    def bar(self, label: str, total: int) -> Bar:
        return _JsonBar(label, total, self, self._clock)

    def tell(self, message: str) -> None:
        self.event("message", message=message)


class _JsonBar:
    def __init__(self, label: str, total: int, owner: Json, clock: Callable[[], float]) -> None:
        self._label, self._total, self._owner, self._clock = label, total, owner, clock
        self._told_s = -1.0

    def at(self, position: int) -> None:
        if self._told_s < 0 or self._clock() - self._told_s >= 1.0:
            self._told_s = self._clock()
            self._owner.event("blob", blob=self._label, position=position, total=self._total)

    def done(self, how: str) -> None:
        self._owner.event("done", blob=self._label, how=how, total=self._total)


class Bars:
    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import, and needed on terminals only
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._rich: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[how]}"),
            console=Console(stderr=True),
        )

    def bar(self, label: str, total: int) -> Bar:
        return _RichBar(self._rich, self._rich.add_task(label, total=max(1, total), how=""), max(1, total))

    def event(self, event: str, **says: Any) -> None:
        pass

    def tell(self, message: str) -> None:
        self._rich.console.print(message, style="yellow", markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()


class _RichBar:
    def __init__(self, rich: RichProgress, task: TaskID, total: int) -> None:
        self._rich, self._task, self._total = rich, task, total

    def at(self, position: int) -> None:
        self._rich.update(self._task, completed=position)

    def done(self, how: str) -> None:
        self._rich.update(self._task, completed=self._total, how=how)
