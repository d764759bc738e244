"""containerd with storage of its own, and ctr talking to it: it comes with Debian's docker.io."""

import subprocess
import time
from pathlib import Path
from typing import Self

from tests.clients.tools import CommandFailed, end_daemon, remove_directory, run, scratch_directory
from tests.needs import program, root

_START_S = 60.0


class Containerd:
    """One daemon without a runtime for pods. References are host:port/name:tag."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self._process = process

    @classmethod
    def start(cls) -> Self:
        root()
        command = program("containerd")
        program("ctr", "containerd")
        directory = scratch_directory("containerd")
        (directory / "config.toml").write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{directory}/socket"\n'
        )
        argv = ["setpriv", "--pdeathsig", "TERM", "--", str(command), "--config", f"{directory}/config.toml"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        containerd = cls(directory, process)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                containerd.run("version")
            except CommandFailed:
                if process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                text = (directory / "log").read_text(errors="replace")[-4000:]
                containerd.close()
                raise RuntimeError(f"containerd does not start\n{text}") from None
            return containerd

    def run(self, *arguments: str | Path) -> str:
        return run([program("ctr", "containerd"), "--address", self.directory / "socket", *arguments])

    def load(self, archive: Path, name: str) -> None:
        """Take an OCI archive in, with all that its index leads to; its tags become tags of the name."""
        self.run("images", "import", "--all-platforms", "--no-unpack", "--base-name", name, archive)

    def push(self, reference: str) -> None:
        """Everything that the reference leads to, also what is for other platforms."""
        self.run("images", "push", "--plain-http", reference, reference)

    def remove(self, reference: str) -> None:
        """The image, and by a collection at once all content that nothing else names."""
        self.run("images", "rm", "--sync", reference)

    def content(self) -> set[str]:
        """Digests of everything that is stored locally."""
        return set(self.run("content", "ls", "--quiet").split())

    def close(self) -> None:
        end_daemon(self._process)
        remove_directory(self.directory)
