"""`speedy serve`: starting, refusing to start, ending."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from benchmarks.processes import pss_bytes
from tests.speedy.embedded import EmbeddedServer, speedy
from tests.speedy.pushing import Pusher

MIB = 1024 * 1024

Start = Callable[..., EmbeddedServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that are gone after the test; on `tmp_path/data` unless told otherwise."""
    servers: list[EmbeddedServer] = []

    def begin(data: Path | None = None, **more: str) -> EmbeddedServer:
        servers.append(EmbeddedServer(data or tmp_path / "data", **more))
        return servers[-1]

    yield begin
    for server in servers:
        server.kill()


def test_an_image_is_pushed_pulled_and_still_there_after_a_restart(start: Start) -> None:
    server = start()
    server.wait_ready()
    layers = [os.urandom(9 * MIB), b"", os.urandom(100)]
    digest = Pusher(server.url).push_image("first/image", "latest", layers, pieces=3)
    assert Pusher(server.url).pull_image("first/image", "latest") == digest
    assert server.stop() == 0
    again = start()
    again.wait_ready()
    # Processor time, not the clock's: other tests run meanwhile, and the bound is for a machine that does nothing else.
    assert _cpu_s(again.process.pid) + _cpu_s(again.worker_pid()) < 3.0
    assert Pusher(again.url).pull_image("first/image", "latest") == digest


def _cpu_s(pid: int | None) -> float:
    """Processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_start_tells_address_directory_and_how_to_push(start: Start) -> None:
    server = start()
    server.wait_ready()
    text = server.log_text()
    port = urlsplit(server.url).port
    assert f"listens on http://127.0.0.1:{port}" in text
    assert str(server.data) in text
    assert f"docker push 127.0.0.1:{port}/" in text


def test_idle_memory_is_small_and_the_first_process_holds_no_room(start: Start) -> None:
    server = start()
    server.wait_ready()
    assert pss_bytes(server.process.pid) < 150 * MIB
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "native/_engine" not in loaded
    assert "sqlalchemy" not in loaded


def test_a_port_in_use_is_named(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(listen=f"127.0.0.1:{port}")
        assert server.process.wait(20) != 0
    assert server.log_text().count(f"127.0.0.1 port {port}: Address already in use") == 1
    assert "--listen HOST:PORT" in server.log_text()
    assert "Traceback" not in server.log_text()


def test_a_second_server_on_the_directory_refuses_and_the_first_goes_on(start: Start) -> None:
    server = start()
    server.wait_ready()
    done = speedy("serve", "--data", str(server.data), "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert f"{server.data} is in use" in done.stderr
    assert str(server.process.pid) in done.stderr
    assert requests.get(f"{server.url}/readyz", timeout=5).status_code == 200


def test_the_directory_stays_taken_while_a_worker_is_replaced(start: Start) -> None:
    server = start()
    server.wait_ready()
    worker = server.worker_pid()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    done = speedy("serve", "--data", str(server.data), "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "is in use" in done.stderr
    server.wait_ready()
    assert server.worker_pid() != worker


@pytest.mark.parametrize("part", ["chunks", "metadata.db"])
def test_parts_of_another_clusters_directory_are_refused(start: Start, tmp_path: Path, part: str) -> None:
    for name in ("one", "other"):
        server = start(tmp_path / name)
        server.wait_ready()
        assert server.stop() == 0
    own, foreign = tmp_path / "one" / part, tmp_path / "other" / part
    (shutil.rmtree if own.is_dir() else os.unlink)(own)
    foreign.rename(own)
    server = start(tmp_path / "one")
    assert server.process.wait(20) != 0
    assert "belongs to cluster" in server.log_text()
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize("room", ["chunkmaster", "metaserver"])
def test_a_schema_of_a_newer_version_is_refused(start: Start, room: str) -> None:
    server = start()
    server.wait_ready()
    assert server.stop() == 0
    with sqlite3.connect(server.data / "metadata.db") as database:
        database.execute(f"UPDATE alembic_version_{room} SET version_num = 'from the future'")
    again = start()
    assert again.process.wait(20) != 0
    assert "from the future" in again.log_text()
    assert "Traceback" not in again.log_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_upload_that_runs_when_the_server_is_stopped_is_finished(start: Start, number: int) -> None:
    server = start()
    server.wait_ready()
    location = requests.post(f"{server.url}/v2/a/blobs/uploads/", timeout=5).headers["Location"]
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", str(2 * MIB))
    connection.endheaders()
    connection.send(bytes(MIB))
    _wait_for(lambda: _in_flight(server.url) >= 2)  # the upload and the question
    ended: list[int] = []
    stopping = threading.Thread(target=lambda: ended.append(server.stop(number)))
    stopping.start()
    _wait_for(lambda: _refused(server.url))
    connection.send(bytes(MIB))
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{2 * MIB - 1}")
    connection.close()
    stopping.join(30)
    assert ended == [0]


def test_the_end_does_not_wait_for_an_upload_that_stands_still(start: Start) -> None:
    server = start(SPEEDY_REGISTRY_BODY_IDLE_S="2s")
    server.wait_ready()
    location = requests.post(f"{server.url}/v2/a/blobs/uploads/", timeout=5).headers["Location"]
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"x")
    _wait_for(lambda: _in_flight(server.url) >= 2)
    begin = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begin < 10
    connection.close()


def test_status_shows_the_group_of_a_running_server(start: Start) -> None:
    server = start()
    server.wait_ready()
    done = speedy("status", "--data", str(server.data), "--json")
    assert done.returncode == 0, done.stderr
    assert '"server_id": "embedded"' in done.stdout
    assert '"ready": true' in done.stdout
    # The call that it uses is not open to everybody, and nothing else of the master is there.
    assert requests.get(f"{server.url}/v1/groups", timeout=5).status_code == 404
    assert requests.post(f"{server.url}/v1/groups", json={"members": []}, timeout=5).status_code == 404


def _in_flight(url: str) -> float:
    metrics = requests.get(f"{url}/metrics", timeout=5).text
    line = next(line for line in metrics.splitlines() if line.startswith("speedy_requests_in_flight{"))
    return float(line.rpartition(" ")[2])


def _refused(url: str) -> bool:
    try:
        requests.get(f"{url}/healthz", timeout=5)
    except requests.ConnectionError:
        return True
    return False


def _wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the awaited condition did not come"
        time.sleep(0.02)
