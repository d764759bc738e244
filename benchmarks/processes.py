"""Registries that a benchmark starts for itself, and how much memory a group of processes uses."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class Target(Protocol):
    name: str
    url: str

    def renew(self) -> None:
        """Begin a round: a started registry begins with an empty directory."""

    def close(self) -> None: ...


class Elsewhere:
    """A registry that somebody else runs."""

    def __init__(self, name: str, url: str) -> None:
        self.name, self.url = name, url.rstrip("/")

    def renew(self) -> None:
        pass

    def close(self) -> None:
        pass


class Started:
    """A registry of our own, in a temporary directory below `parent`; empty at each `renew`."""

    def __init__(self, name: str, parent: Path) -> None:
        self.name, self._parent = name, parent
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    def renew(self) -> None:
        self.close()
        self._directory = Path(tempfile.mkdtemp(prefix="speedy-bench-", dir=self._parent))
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        with (self._directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command(self._directory, port),
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._directory,
            )
        self._wait()

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _command(self, directory: Path, port: int) -> list[str]:
        raise NotImplementedError

    def _wait(self) -> None:
        assert self.process is not None
        assert self._directory is not None
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(self.url + "/v2/", timeout=2),
            ):
                return
            time.sleep(0.05)
        log = (self._directory / "log").read_text(errors="replace")[-2000:]
        self.close()
        raise SystemExit(f"{self.name} did not become ready:\n{log}")


class SpeedyServe(Started):
    def _command(self, directory: Path, port: int) -> list[str]:
        speedy = [sys.executable, "-m", "speedy"]
        os.environ.setdefault("PYTHONPATH", str(Path(__file__).parent.parent))
        return [*speedy, "serve", "--data", str(directory / "data"), "--listen", f"127.0.0.1:{port}"]


class DockerRegistry(Started):
    """Debian's docker-registry with the settings of its package, but for the address and the directory."""

    def _command(self, directory: Path, port: int) -> list[str]:
        config = directory / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage:\n  cache: {{blobdescriptor: inmemory}}\n  delete: {{enabled: true}}\n"
            f"  filesystem: {{rootdirectory: {directory / 'data'}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        return ["docker-registry", "serve", str(config)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pss_bytes(pid: int) -> int:
    """Sum of the proportional set sizes of all processes in the process group of `pid`: what they use together."""
    return sum(_pss_of(member) for member in _members(os.getpgid(pid)))


def _members(group: int) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(entry)) == group:
                    yield int(entry)


def _pss_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except OSError:  # it ended meanwhile
        return 0


class PeakMemory:
    """Samples the memory of a process group until closed. `peak_bytes` is the most that was seen."""

    def __init__(self, pid: int, every_s: float = 0.25) -> None:
        self._pid, self._every_s = pid, every_s
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while True:
            with contextlib.suppress(ProcessLookupError):
                self.peak_bytes = max(self.peak_bytes, pss_bytes(self._pid))
            if self._stop.wait(self._every_s):
                return

    def close(self) -> int:
        self._stop.set()
        self._thread.join(10)
        return self.peak_bytes
