"""`speedy serve` with less address space (ulimit -v) than its clients ask for."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import Pusher, digest_of
from wire.memory import HEADROOM_BYTES

MIB = 1 << 20
BLOB = os.urandom(16 * MIB)
CLIENTS = 24

#: for buffers, threads and the rest, above what an idle server has and the headroom
ROOM_BYTES = 24 * MIB


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[int], EmbeddedServer]]:
    servers: list[EmbeddedServer] = []

    def begin(limit_bytes: int) -> EmbeddedServer:
        servers.append(EmbeddedServer(tmp_path / "data", prefix=("prlimit", f"--as={limit_bytes}", "--")))
        servers[-1].wait_ready()
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()


def test_requests_are_served_or_told_to_come_again_and_all_is_well_when_the_load_is_gone(
    serve: Callable[[int], EmbeddedServer],
) -> None:
    idle = serve(2048 * MIB)
    idle_bytes = int(re.findall(r"VmPeak:\s+(\d+) kB", Path(f"/proc/{idle.worker_pid()}/status").read_text())[0]) * 1024
    assert idle_bytes < 512 * MIB, "stacks and arenas are small under a limit"
    Pusher(idle.url).push_blob("tight", BLOB)
    assert idle.stop() == 0

    server = serve(idle_bytes + HEADROOM_BYTES + ROOM_BYTES)
    worker = server.worker_pid()

    def pull(_: int) -> int:
        answer = requests.get(f"{server.url}/v2/tight/blobs/{digest_of(BLOB)}", timeout=60)
        assert answer.status_code != 200 or answer.content == BLOB
        return told(answer)

    def push(number: int) -> int:
        begun = requests.post(f"{server.url}/v2/tight/blobs/uploads/", timeout=60)
        if told(begun) != 202:
            return begun.status_code
        blob = number.to_bytes(8, "big") + BLOB[8:]
        where = f"{server.url}{begun.headers['Location']}?digest={digest_of(blob)}"
        return told(requests.put(where, data=blob, timeout=60))

    with ThreadPoolExecutor(CLIENTS) as clients:
        # Pulls take what room there is first, and pushes find what these have left.
        answers = [clients.submit(pull, number) for number in range(CLIENTS)]
        assert {answer.result() for answer in answers} <= {200, 503}
        answers = [clients.submit((push, pull)[number % 2], number) for number in range(3 * CLIENTS)]
        seen = Counter(answer.result() for answer in answers)
    assert set(seen) <= {200, 201, 503}, seen
    assert min(seen[200], seen[201]) > 0, seen
    assert "no memory for" in server.log_text(), "the limit was not reached"
    Pusher(server.url).push_blob("tight", os.urandom(8) + BLOB[8:])
    assert server.worker_pid() == worker, "no process was lost"


def told(answer: requests.Response) -> int:
    assert answer.status_code != 503 or int(answer.headers["Retry-After"]) > 0
    return answer.status_code
