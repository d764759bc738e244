"""kill -9 of the embedded server in the middle of pushes: what was acknowledged is there, all else whole or absent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import requests

from speedy.processes import identity_of, is_alive
from tests.cluster.ledger import Clients, Ledger, OpenUpload, bytes_of, verify
from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import digest_of

KILLS = 20
REPOSITORY = "kill/nine"
MIB = 1024 * 1024


def test_twenty_kills_in_the_middle_of_pushes_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ledger = Ledger()
    server = EmbeddedServer(data)
    try:
        server.wait_ready()
        for turn in range(KILLS):
            before = len(ledger.blobs)
            clients = Clients(REPOSITORY, lambda: server.url, ledger)  # noqa: B023 - ends within the turn
            # Some turns are killed early, some late: at least one new acknowledgement, at most a few.
            _wait_for(lambda: len(ledger.blobs) > before + turn % 4, clients)  # noqa: B023
            upload = OpenUpload(server.url, REPOSITORY, bytes_of(turn, 9 * MIB), durable=5 * MIB, sent=3 * MIB)
            _wait_for(lambda: _bodies_in_flight(server.url) > 1, clients)  # noqa: B023
            if turn % 3 == 0:
                server = _kill_main(server, data)
            elif turn % 3 == 1:
                _kill_worker(server)
            else:
                server = _kill_group(server, data)
            clients.stop()
            upload.connection.close()
            server.wait_ready()
            assert (
                requests.head(f"{server.url}/v2/{REPOSITORY}/blobs/{digest_of(upload.data)}", timeout=10).status_code
                == 404
            )
            upload.resume(server.url)
            new = list(ledger.blobs.values())[before:]
            verify(server.url, REPOSITORY, ledger, blobs=new)
        verify(server.url, REPOSITORY, ledger)
        assert len(ledger.blobs) >= 2 * KILLS
        assert len(ledger.tags) > 0
        assert server.stop() == 0
    finally:
        server.kill()


def _kill_main(server: EmbeddedServer, data: Path) -> EmbeddedServer:
    worker = identity_of(server.worker_pid() or 0)
    assert worker is not None
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(10)
    deadline_s = time.monotonic() + 1.0  # a worker whose parent died ends at once
    while is_alive(worker):
        assert time.monotonic() < deadline_s, "the worker lives on without its parent"
        time.sleep(0.01)
    return EmbeddedServer(data)


def _kill_worker(server: EmbeddedServer) -> None:
    worker = server.worker_pid()
    assert worker is not None
    identity = identity_of(worker)
    os.kill(worker, signal.SIGKILL)
    deadline_s = time.monotonic() + 5.0
    while is_alive(identity):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _kill_group(server: EmbeddedServer, data: Path) -> EmbeddedServer:
    server.kill()
    return EmbeddedServer(data)


def _bodies_in_flight(url: str) -> float:
    metrics = requests.get(f"{url}/metrics", timeout=10).text
    line = next(line for line in metrics.splitlines() if line.startswith("speedy_requests_in_flight{"))
    return float(line.rpartition(" ")[2]) - 1  # not this question


def _wait_for(condition: Callable[[], bool], clients: Clients, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"the awaited condition did not come; failures: {clients.failures[-3:]}"
        time.sleep(0.01)
