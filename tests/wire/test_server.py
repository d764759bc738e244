"""The life of a server's two processes."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.wire.raw import GET_WHO, RawConnection, head
from tests.wire.serving import ROOT, Server, is_ready, serving, start, stop, wait_until

ECHO = "tests.wire.echo:build"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_ends_at_once_when_its_arbiter_is_killed() -> None:
    with serving(ECHO) as server, RawConnection(server.port) as raw:
        worker_pid = server.worker_pid
        raw.send(head("PUT", "/body", "Content-Length: 1000000") + b"in flight")  # an upload does not keep it alive
        os.kill(server.arbiter_pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(worker_pid), 2.0, "the worker's end")
        wait_until(lambda: not listens(server), 2.0, "the port's end")  # its threads' ends may follow its own


def test_a_worker_that_cannot_be_started_is_tried_again() -> None:
    with serving(ECHO, forks_fail=2) as server:
        assert server.get("/who")[0] == 200
        assert server.log.count("cannot start a worker, trying again") == 2
        assert server.stop() == 0


def test_a_worker_that_is_killed_is_replaced() -> None:
    with serving(ECHO) as server:
        first = server.worker_pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not is_alive(first), 5, "the first worker's end")
        wait_until(lambda: is_ready(server), 10, "the second worker")
        assert server.worker_pid != first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_lets_the_running_request_finish_and_closes_the_room(tmp_path: Path, number: int) -> None:
    closed = tmp_path / "closed"
    with serving(ECHO, {"closed_path": str(closed)}) as server, RawConnection(server.port) as raw:
        raw.send(head("GET", "/slow/3.0"))  # the signal has to come before its end
        wait_until(lambda: b"true" in server.get("/started")[1], 5, "the slow request's start")
        os.killpg(server.arbiter_pid, number)  # as a terminal does: to the arbiter and to the worker
        told = raw.answer()
        assert (told.status, told.headers["connection"]) == (200, "close")
        assert server.process.wait(20) == 0
        assert closed.read_text() == "closed"


def test_a_stop_is_bounded_when_a_request_does_not_finish(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    with serving(ECHO, {"closed_path": str(closed)}, graceful_timeout_s=1.0) as server:
        with RawConnection(server.port) as raw:
            raw.send(head("PUT", "/body", "Content-Length: 1000000") + b"and then nothing")
            both = b'speedy_requests_in_flight{room="echo"} 2.0'  # that one, and the asking itself
            wait_until(lambda: both in server.get("/metrics")[1], 5, "the request")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(8) == 0
        assert closed.read_text() == "closed"


def test_what_stands_behind_serve_runs_in_the_arbiter_only(tmp_path: Path) -> None:
    """A caller that removes a file or gives a lock back afterwards must not do it once per worker."""
    ended = tmp_path / "ended"
    script = f"""
import os
from tests.wire.echo import build
from wire.server import serve
try:
    serve(build, host="127.0.0.1", port=0, threads=2, name="t")
finally:
    with open({str(ended)!r}, "a") as file:
        file.write(str(os.getpid()) + "\\n")
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    # Without a pause: the signal is to meet a worker that has hardly been forked.
    deadline = time.monotonic() + 20
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
    worker_pid = int(found[0])
    os.kill(worker_pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(worker_pid), 20, "the worker's end")
    assert not ended.exists()
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert ended.read_text().split() == [str(process.pid)]


def test_a_second_interrupt_does_not_wait() -> None:
    with serving(ECHO) as server, RawConnection(server.port) as raw:
        raw.send(head("GET", "/slow/30.0"))
        wait_until(lambda: b"true" in server.get("/started")[1], 5, "the slow request's start")
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: not listens(server), 5, "the first interrupt")
        server.process.send_signal(signal.SIGINT)
        server.process.wait(6)


def listens(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) == 0


def test_signals_that_would_start_a_second_worker_are_ignored() -> None:
    with serving(ECHO) as server:
        first = server.worker_pid
        for number in (signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGUSR1):
            server.process.send_signal(number)
            assert server.get("/who")[0] == 200
        children = Path(f"/proc/{server.arbiter_pid}/task/{server.arbiter_pid}/children").read_text().split()
        assert children == [str(first)]


def test_a_port_in_use_is_told_with_its_number_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=f"ended with code 2(.|\n)*port {port}: Address already in use"):
            start(ECHO, port=port)


def test_a_room_that_cannot_be_built_ends_the_server_and_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"ended with code 3(.|\n)*cannot start: the disk is gone") as caught:
        start(ECHO, {"refuse": "the disk is gone"})
    assert "Traceback" not in str(caught.value)


def test_nothing_but_the_given_port_is_opened(server: Server) -> None:
    def sockets(pid: int) -> set[str]:
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        return {link[8:-1] for link in links if link.startswith("socket:")}

    ours = sockets(server.arbiter_pid) | sockets(server.worker_pid)
    listening = {
        (fields[1].split(":")[1], fields[9])
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in ours
    }
    assert [int(port, 16) for port, _ in listening] == [server.port]
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    assert not [fields for fields in unix if fields[6] in ours and len(fields) > 7], "a named local socket"


def test_the_arbiter_does_not_carry_the_rooms_code(tmp_path: Path) -> None:
    script = (
        "import sys, wire.server; print([m for m in ('flask', 'requests', 'prometheus_client') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_kept_connection_is_told_to_close_when_the_server_stops() -> None:
    server = start(ECHO)
    try:
        with RawConnection(server.port) as raw:
            assert raw.ask(GET_WHO).headers["connection"] == "keep-alive"
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            assert raw.is_closed_by_server()
            stopper.join(20)
        assert server.process.returncode == 0
    finally:
        stop(server)


def test_requests_hold_the_log_line_with_their_id(server: Server) -> None:
    with RawConnection(server.port) as raw:
        told = raw.ask(head("GET", "/who", "X-Request-Id: my-id-1"))
    assert told.headers["x-request-id"] == "my-id-1"
    assert json.loads(told.body)["request_id"] == "my-id-1"
    wait_until(lambda: "request_id=my-id-1" in server.log, 5, "the log line")
    (line,) = [line for line in server.log.splitlines() if "request_id=my-id-1" in line]
    assert "GET /who 200 room=echo ms=" in line
    assert "None" not in line


def test_a_server_may_open_as_many_files_as_the_system_lets_it() -> None:
    soft_before, hard_before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard_before), hard_before))  # as a shell hands it on
    try:
        with serving(ECHO) as server:
            limits = Path(f"/proc/{server.worker_pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_before, hard_before))
    soft, hard = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5]
    assert soft == hard
