"""`speedy serve` as a real process for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import requests

READY_TIMEOUT_S = 30.0
REPOSITORY_ROOT = Path(__file__).parent.parent.parent


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of Speedy, and with the checkout to import from."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SPEEDY_")}
    return {**plain, "PYTHONPATH": str(REPOSITORY_ROOT), **more}


def speedy(*arguments: str, timeout_s: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "speedy", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment(**variables),
        check=False,
    )


class EmbeddedServer:
    """One start of `speedy serve` on `data`. Its process group is its own, so that a kill takes nobody else along.
    `prefix`: a command that runs it (prlimit, for instance)."""

    def __init__(self, data: Path, listen: str = "127.0.0.1:0", prefix: Sequence[str] = (), **variables: str) -> None:
        self.data = data
        data.parent.mkdir(parents=True, exist_ok=True)
        self.log = data.parent / f"{data.name}.log"
        (data / "speedy.address.json").unlink(missing_ok=True)  # left by a server that was killed
        self.started_s = time.monotonic()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "speedy", "serve", "--data", str(data), "--listen", listen],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(**variables),
                start_new_session=True,
            )
        # A port that was chosen here need not be asked for, which a server on a full disk could not tell.
        self.url = "" if listen.endswith(":0") else f"http://{listen}"

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Seconds from the start of the process until it is ready."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s and self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                self.url = self.url or json.loads((self.data / "speedy.address.json").read_text())["url"]
                if requests.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return time.monotonic() - self.started_s
            time.sleep(0.01)
        raise AssertionError(f"not ready (exit code {self.process.poll()}):\n{self.log_text()[-4000:]}")

    def worker_pid(self) -> int | None:
        """The process that serves: the first one's child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """The end of a test, whatever has happened."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")
