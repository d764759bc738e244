"""The registries that the clients are pointed at: embedded, and a cluster of processes behind the nginx of deploy/.

The third one, docker-compose.yml, is in compose.py. Each is started as a user would start it, and offers

    target.name, target.address ("127.0.0.1:port")
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.clients.tools import remove_directory, run, scratch_directory
from tests.needs import program
from tests.ports import free_port

CHECKOUT = Path(__file__).parents[2]
SPEEDY = (sys.executable, "-m", "speedy")
_FROM_CHECKOUT = {"PYTHONPATH": str(CHECKOUT)}

_READY_S = 60.0
_STOP_S = 40.0


class Target(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    address: str


@contextmanager
def embedded() -> Iterator[Started]:
    """`speedy serve` on an empty directory."""
    directory = scratch_directory("embedded")
    try:
        with serving(directory) as address:
            yield Started("embedded", address)
    finally:
        remove_directory(directory)


@contextmanager
def serving(directory: Path, command: Sequence[str] = SPEEDY, pythonpath: Path | None = CHECKOUT) -> Iterator[str]:
    """Address of `speedy serve` on directory/data. An installed `command` needs no `pythonpath`."""
    port = free_port()
    argv = [*command, "serve", "--data", str(directory / "data"), "--listen", f"127.0.0.1:{port}"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if pythonpath is not None:
        env["PYTHONPATH"] = str(pythonpath)
    with _running(argv, directory / "log", env=env):
        wait_ready(f"127.0.0.1:{port}", directory / "log")
        yield f"127.0.0.1:{port}"


@contextmanager
def cluster(database_url: str) -> Iterator[Started]:
    """Two groups of three, two ImageServers, two registries, PostgreSQL; clients reach both registries in turn."""
    directory = scratch_directory("cluster")
    data = str(directory / "data")
    try:
        shape = ["--groups", "2", "--replicas", "3", "--imageservers", "2", "--registries", "2"]
        run(
            [*SPEEDY, "cluster", "up", "--data", data, "--database", database_url, *shape],
            timeout_s=_READY_S * 2,
            env=_FROM_CHECKOUT,
        )
        try:
            registries = _registries(data)
            assert len(registries) == 2
            with nginx(directory, registries) as address:
                yield Started("cluster", address)
        finally:
            run([*SPEEDY, "cluster", "down", "--data", data], timeout_s=_READY_S * 2, env=_FROM_CHECKOUT)
    finally:
        remove_directory(directory)


@contextmanager
def nginx(directory: Path, registries: Sequence[str]) -> Iterator[str]:
    """Debian's nginx on deploy/nginx.conf, with these registries in the place of what docker's DNS would say."""
    port = free_port()
    text = (CHECKOUT / "deploy/nginx.conf").read_text()
    servers = "".join(f"server {registry}; " for registry in registries)
    text, found = re.subn(r"resolver 127\.0\.0\.11 [^;]*;", f"upstream registries {{ {servers}}}", text)
    assert found == 1
    assert "set $registries registries:5000;" in text
    text = text.replace("set $registries registries:5000;", "set $registries registries;")
    text = text.replace("listen 5000;", f"listen 127.0.0.1:{port};").replace("/tmp/nginx", f"{directory}/nginx")
    (directory / "nginx.conf").write_text(text)
    directory.chmod(0o711)  # nginx's workers are another user when root starts it
    argv = [str(program("nginx")), "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", "daemon off;"]
    with _running(argv, directory / "nginx.log", stop=signal.SIGQUIT):
        wait_ready(f"127.0.0.1:{port}", directory / "nginx.log")
        yield f"127.0.0.1:{port}"


def wait_ready(address: str, log: Path) -> None:
    """Returns when /readyz answers 200; raises with the end of the log otherwise."""
    deadline = time.monotonic() + _READY_S
    last: object = None
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            last = (answer.status, answer.read())
            if answer.status == http.client.OK:
                return
        except OSError as error:
            last = error
        finally:
            connection.close()
        time.sleep(0.05)
    raise TimeoutError(f"{address} is not ready: {last!r}\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def _running(
    argv: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[None]:
    """A server of ours: ends with the test run, also when that is killed."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=log.parent,
        )
    try:
        yield
        assert process.poll() is None, f"{argv[0]} ended by itself:\n{log.read_text(errors='replace')[-4000:]}"
    finally:
        process.send_signal(stop)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)
            raise


def _registries(data: str) -> list[str]:
    """host:port of the cluster's registries, as `speedy cluster status` tells them."""
    status = json.loads(run([*SPEEDY, "cluster", "status", "--data", data, "--json"], env=_FROM_CHECKOUT))
    return [process["url"].removeprefix("http://") for process in status["processes"] if process["room"] == "registry"]
