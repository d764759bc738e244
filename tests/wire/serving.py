"""Real servers for tests: any room's app in a real gunicorn process, on a port that the kernel chooses.

    with serving("tests.wire.echo:build") as server:
        client = ServiceClient(server.url, KEY)

A server is named by "module:function" (a build() for wire.server.serve, given `arguments` as JSON), because it is built
in another process. It is ready when /readyz answers 200. Its log goes to a file that is shown when it does not start.
"""

from __future__ import annotations

import errno
import http.client
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire import logs
from wire.server import serve

ROOT = Path(__file__).resolve().parents[2]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Server:
    """A running server: the arbiter's process and where it listens."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    log_path: Path

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def arbiter_pid(self) -> int:
        return self.process.pid

    @property
    def worker_pid(self) -> int:
        """The worker's process id; raises ValueError while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0]) if children.split() else int("no worker")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a plain GET on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the arbiter and wait for its end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def serving(build: str, arguments: dict[str, Any] | None = None, **options: Any) -> Iterator[Server]:
    """Run `build` ("module:function") until the block ends. `options` go to wire.server.serve (threads, ...)."""
    server = start(build, arguments, **options)
    try:
        yield server
    finally:
        stop(server)


def start(build: str, arguments: dict[str, Any] | None = None, *, ready: bool = True, **options: Any) -> Server:
    """Start a server and wait until it is ready (`ready` False: until it listens). Raises RuntimeError with its log."""
    directory = Path(tempfile.mkdtemp(prefix="speedy-serving-"))
    log_path = directory / "log"
    port_path = directory / "port"
    task = {"build": build, "arguments": arguments or {}, "options": {"threads": 8, **options}, "port": str(port_path)}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.wire.serving", json.dumps(task)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, "127.0.0.1", 0, log_path)
    try:
        wait_until(lambda: port_path.exists() or process.poll() is not None, START_TIMEOUT_S, "the port")
        if process.poll() is None:
            server.port = int(port_path.read_text())
            if ready:
                wait_until(lambda: process.poll() is not None or is_ready(server), START_TIMEOUT_S, "readiness")
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.poll()}")
    except Exception as error:
        log_text = server.log
        stop(server)
        raise RuntimeError(f"{build} did not start: {error}\n{log_text}") from error
    return server


def stop(server: Server) -> None:
    """End a server whatever its state, and every process it left; its log goes too."""
    try:
        server.stop()
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(10)
    finally:
        shutil.rmtree(server.log_path.parent, ignore_errors=True)


def is_ready(server: Server) -> bool:
    try:
        return server.get("/readyz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """Wait until `condition()` is true; raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """SIGSTOP to a process; returns when all its threads stand still, which is a little after the signal was sent."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    wait_until(
        lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for task in tasks.iterdir()),
        10.0,
        f"the stop of process {pid}",
    )


def main(task: dict[str, Any]) -> int:
    """The server's process."""
    logs.configure("debug" if task["options"].pop("debug", False) else "info", "text")
    _fail_forks(task["options"].pop("forks_fail", 0))
    module, _, function = task["build"].partition(":")
    port_path = Path(task["port"])

    def listening(_host: str, port: int) -> None:
        draft = port_path.with_suffix(".draft")
        draft.write_text(str(port))
        draft.rename(port_path)

    return serve(
        lambda: getattr(importlib.import_module(module), function)(**task["arguments"]),
        **{"host": "127.0.0.1", "port": 0, "name": "test", "on_listening": listening, **task["options"]},
    )


def _fail_forks(count: int) -> None:
    """The first `count` of them, as at a limit of processes."""
    real, left = os.fork, count

    def fork() -> int:
        nonlocal left
        if left == 0:
            return real()
        left -= 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fork


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
