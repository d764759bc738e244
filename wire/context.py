"""The request id that follows one request through all rooms.

It lives in a context variable: set at the edge of a room (wire.service), written into every log line (wire.logs),
sent on with every internal call (wire.http). Work handed to another thread takes it along through run_in_context.
"""

from __future__ import annotations

import contextvars
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: header that carries the id in, out and onward
REQUEST_ID_HEADER = "X-Request-Id"

# Clients choose ids freely; only what is harmless in a log line and in a header is taken over.
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("speedy_request_id", default="")


def request_id() -> str:
    """The id of the request this code works for; empty outside of any request."""
    return _request_id.get()


def accepted_request_id(candidate: str | None) -> str:
    """`candidate` if it may be used as a request id, else a new one."""
    if candidate is not None and _ACCEPTED.fullmatch(candidate):
        return candidate
    return uuid.uuid4().hex


@contextmanager
def bind_request_id(candidate: str | None) -> Iterator[str]:
    """Everything inside the block works for the request `candidate` (None or an unusable one: a new id); gives the
    id."""
    bound = accepted_request_id(candidate)
    token = _request_id.set(bound)
    try:
        yield bound
    finally:
        _request_id.reset(token)


def run_in_context(work: Callable[P, R]) -> Callable[P, R]:
    """`work` as a callable that carries the present context into another thread. It may be called many times at
    once."""
    context = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered by one thread at a time only: each call enters a copy of its own (O(1)).
        return context.copy().run(work, *args, **kwargs)

    return carried
