"""A process whose limit of threads is reached, as far as Python's threads go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: no machine has room for such a stack: the kernel refuses the thread
_STACK_BYTES = 1 << 46


@contextmanager
def no_more_threads() -> Iterator[None]:
    before = threading.stack_size(_STACK_BYTES)
    try:
        yield
    finally:
        threading.stack_size(before)
