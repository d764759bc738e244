"""Caches of what never changes: fragment lists, by file ids that are never reused, and the bytes of small manifests, by
their digests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class WeighedCache(Generic[Key, Value]):
    """Keeps the values used last whose weights sum up to `weight_max` at most. Thread-safe."""

    def __init__(self, weight_max: int, weigh: Callable[[Value], int]) -> None:
        self._weight_max = weight_max
        self._weigh = weigh
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._weight = 0

    def get(self, key: Key) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            return found

    def put(self, key: Key, value: Value) -> None:
        weight = self._weigh(value)
        if weight > self._weight_max:
            return  # would push out everything else and then itself
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._weight += weight
            while self._weight > self._weight_max:
                self._drop(next(iter(self._values)))

    def drop(self, key: Key) -> None:
        with self._lock:
            self._drop(key)

    @property
    def weight(self) -> int:
        with self._lock:
            return self._weight

    def _drop(self, key: Key) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)
