"""The two registries that the client is tried against, each as a process that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Protocol

import requests

from tests.needs import program
from tests.ports import free_port
from tests.speedy.embedded import EmbeddedServer

_READY_S = 60.0


class Registry(Protocol):
    name: str

    @property
    def address(self) -> str:
        """host:port of the process that runs now."""
        ...

    def kill(self) -> None:
        """kill -9."""
        ...

    def start_again(self) -> None:
        """On the same data, at another port."""
        ...

    def close(self) -> None: ...


class Speedy:
    """`speedy serve`, without syncs: what a killed process wrote is the kernel's, and no power is cut here."""

    name = "speedy"

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._server = self._started()

    @property
    def address(self) -> str:
        return self._server.url.removeprefix("http://")

    def kill(self) -> None:
        self._server.kill()

    def start_again(self) -> None:
        self._server = self._started()

    def close(self) -> None:
        self._server.kill()

    def _started(self) -> EmbeddedServer:
        server = EmbeddedServer(self._data, SPEEDY_CHUNKSERVER_SYNC="none")
        server.wait_ready(_READY_S)
        return server


class DockerRegistry:
    """Debian's docker-registry 2.8.2. With a secret of its own its upload sessions survive a new start."""

    name = "docker-registry"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = program("docker-registry")
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.start_again()

    def kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def start_again(self) -> None:
        port = free_port()
        config = self._directory / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            "storage:\n  delete: {enabled: true}\n"
            f"  filesystem: {{rootdirectory: {self._directory / 'registry'}}}\n"
            f"http: {{addr: '127.0.0.1:{port}', secret: of-these-tests}}\n"
        )
        with (self._directory / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.address = f"127.0.0.1:{port}"
        deadline_s = time.monotonic() + _READY_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"http://{self.address}/v2/", timeout=5).status_code == 200:
                    return
            time.sleep(0.02)
        raise TimeoutError((self._directory / "registry.log").read_text(errors="replace")[-2000:])

    def close(self) -> None:
        self.kill()
