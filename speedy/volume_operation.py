"""Starts an operation, waits for its end with a bar, and stops it on Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from chunkserver.interface import ChunkUpkeep, Operation
from speedy.waiting import until_answered
from wire.errors import OperationNotFound, SpeedyError

POLL_FIRST_S = 0.02
POLL_MAX_S = 0.5

ShowProgress = Callable[[int, int], None]


def run_operation(start: Callable[[str], Operation], upkeep: ChunkUpkeep, *, quiet: bool) -> tuple[Operation, bool]:
    """`start` is given the operation's id. How it ended, and whether Ctrl-C did it."""
    operation_id = str(uuid.uuid4())
    with progress(quiet) as show, first_interrupt() as interrupted:
        try:
            told = start(operation_id)
            for _ in pauses():
                if told.state != "running":
                    return told, False
                if interrupted.is_set():
                    return _stop(upkeep, operation_id), True
                show(told.done_bytes, told.total_bytes)
                told = until_answered(lambda: upkeep.operation(operation_id))
            raise AssertionError  # pauses do not end
        except OperationNotFound as exc:
            raise click.ClickException(
                "the server has forgotten what it was told to do: it was restarted. Start the command again."
            ) from exc
        except KeyboardInterrupt:
            return _stop(upkeep, operation_id), True


def _stop(upkeep: ChunkUpkeep, operation_id: str) -> Operation:
    try:
        return upkeep.stop_operation(operation_id)
    except SpeedyError as exc:
        raise click.ClickException(
            f"the server could not be told to stop ({exc}); it does by itself when nobody has asked for five minutes"
        ) from exc


@contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C; a second one is an exception as usual. An exception may come where it is lost, in a
    destructor for one, and the command would go on."""
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def pauses() -> Iterator[None]:
    """One after the other, each longer, up to POLL_MAX_S; the first comes at once."""
    pause_s = POLL_FIRST_S
    while True:
        yield
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, POLL_MAX_S)


@contextmanager
def progress(quiet: bool) -> Iterator[ShowProgress]:
    """A bar on standard error; it is told bytes that are done and bytes in all."""
    if quiet:
        yield lambda _done, _total: None
        return
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 - slow to import, of no use to --json

    columns = (bars.BarColumn(), bars.DownloadColumn(True), bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=min(done, total), total=max(total, 1))
