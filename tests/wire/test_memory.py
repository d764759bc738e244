"""What is small still works where a limit on the address space leaves no room for what is large."""

from __future__ import annotations

import subprocess
import sys

from werkzeug.test import Client

from wire.service import create_service
from wire.worker import refusal

#: takes all that is to be had as buffers and threads, in a process of its own because a limit cannot be raised again
_AT_THE_LIMIT = """
import resource, threading
from wire.buffers import BufferPool
from wire.errors import Overloaded
from wire.memory import HEADROOM_BYTES, THREADS_LEAVE_BYTES, live_with_limit
from wire.threads import WorkerThreads

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + THREADS_LEAVE_BYTES + (24 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
live_with_limit()
go_on = threading.Event()
ends = threading.Timer(20.0, go_on.set)  # whatever fails here, the threads end
ends.start()
threads = WorkerThreads(200)
tasks = [threads.submit(go_on.wait) for _ in range(100)]
started = len(threads._threads)
assert 5 < started < 50, started
pool = BufferPool(4 << 20, 100)
lent = []
try:
    while True:
        lent.append(pool.acquire(0.0))
except Overloaded as error:
    assert error.retry_after_s
    assert 5 < len(lent) < 50, len(lent)
first = WorkerThreads(200)  # pulls have taken the room, and the first push comes
assert first.submit(lambda: "done").result(10.0) == "done"
small = [bytearray(1 << 20) for _ in range(HEADROOM_BYTES // (2 << 20))]  # and so is half of the headroom
ends.cancel()
go_on.set()
assert all(task.result(10.0) for task in tasks), "those there are do the work"
for view in lent:
    pool.release(view)
del small
pool.acquire(0.0)
print("well")
"""


def test_threads_and_buffers_leave_the_headroom_to_what_is_small() -> None:
    command = [sys.executable, "-c", _AT_THE_LIMIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "well\n", done.stderr


def test_a_request_without_memory_is_told_to_come_again() -> None:
    app = create_service("room", key=None, ready=lambda: None)

    @app.get("/v1/large")
    def large() -> None:
        raise MemoryError

    answer = Client(app).get("/v1/large")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.get_json()["error"]["code"] == "overloaded"


def test_what_the_worker_itself_refuses_for_want_says_when_to_come_again() -> None:
    assert b"\r\nRetry-After: 2\r\n" in refusal(503, "TOOMANYREQUESTS", "no thread")
    assert b"Retry-After" not in refusal(408, "UNSUPPORTED", "late")
