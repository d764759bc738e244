"""What a transfer did, in numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Outcome:
    """`ways`: how many blobs came there how ("pushed", "pulled", "exists", "mounted"). `bytes_moved` counts bytes of
    blobs that crossed the network, also those that did so in vain. Thread-safe."""

    reference: str
    digest: str = ""
    bytes_moved: int = 0
    ways: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, how: str, moved: int) -> None:
        with self._lock:
            self.ways[how] = self.ways.get(how, 0) + 1
            self.bytes_moved += moved

    def as_json(self) -> dict[str, Any]:
        return {"reference": self.reference, "digest": self.digest, "bytes": self.bytes_moved, "blobs": self.ways}

    def words(self) -> str:
        """ "2 pushed, 1 exists" """
        return ", ".join(f"{count} {how}" for how, count in sorted(self.ways.items())) or "no blobs"
