"""Caches of what never changes, by file ids that are never reused: fragment lists and the bytes of small manifests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class WeighedCache(Generic[Value]):
    """Keeps the values used last whose weights sum up to `weight_max` at most. Thread-safe."""

    def __init__(self, weight_max: int, weigh: Callable[[Value], int]) -> None:
        self._weight_max = weight_max
        self._weigh = weigh
        self._lock = threading.Lock()
        self._values: OrderedDict[int, Value] = OrderedDict()
        self._weight = 0

    def get(self, key: int) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            return found

    def put(self, key: int, value: Value) -> None:
        weight = self._weigh(value)
        if weight > self._weight_max:
            return  # would push out everything else and then itself
        with self._lock:
            self._drop(key)
            self._values[key] = value
            self._weight += weight
            while self._weight > self._weight_max:
                self._drop(next(iter(self._values)))

    def drop(self, key: int) -> None:
        with self._lock:
            self._drop(key)

    @property
    def weight(self) -> int:
        with self._lock:
            return self._weight

    def _drop(self, key: int) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._weight -= self._weigh(value)
