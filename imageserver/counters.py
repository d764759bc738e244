"""What an image store has done and met, as plain numbers; app.py shows them as metrics."""

from __future__ import annotations

import threading
from typing import Literal, get_args

CounterName = Literal[
    "chunks_written",
    "bytes_written",
    "fids_burned",
    "chunks_read",
    "bytes_read",
    "read_failovers",
    "bad_copies",
    "chunks_unreadable",
]


class Counters:
    """Thread-safe; only ever count up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[CounterName, int] = dict.fromkeys(get_args(CounterName), 0)

    def add(self, **amounts: int) -> None:
        """Add to several counters at once: `add(chunks_read=1, bytes_read=4096)`; KeyError for a name that is none."""
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] += amount  # type: ignore[index]

    def values(self) -> dict[CounterName, int]:
        with self._lock:
            return dict(self._values)
