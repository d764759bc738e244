"""How long a command waits for a server that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from wire.errors import Overloaded, Unavailable

#: how long a server may be away or busy; the last question begins then at the latest
PATIENCE_S = 30.0
_AGAIN_S = 0.5

T = TypeVar("T")


def until_answered(ask: Callable[[], T], tell: Callable[[str], None] = lambda _: None) -> T:
    """What `ask`, which is harmless to repeat, answers; a server that is away or busy is asked again for PATIENCE_S,
    and `tell` is told why, once. Raises what it raises then, and all that no time mends."""
    until_s = time.monotonic() + PATIENCE_S
    told = False
    while True:
        try:
            return ask()
        except (Unavailable, Overloaded) as exc:
            if time.monotonic() >= until_s:
                raise
            if not told:
                tell(exc.message)
                told = True
        time.sleep(_AGAIN_S)
