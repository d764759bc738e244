"""The clients that people use, each with storage of its own: docker (a dockerd of ours), podman, skopeo.

Docker and Podman offer the same calls, so that one test speaks for both:

    client.load(image)  client.push(reference)  client.remove(reference)  client.pull(reference)

Nothing of the machine's own containers, images or logins is touched or read.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from tests.clients.images import Image
from tests.needs import not_run, program, root

_COMMAND_S = 240.0  # an image of 500 MiB, compressed on two busy cores
_START_S = 60.0
_STOP_S = 60.0


class CommandFailed(Exception):
    """A client ended with an error; the text holds what it said."""


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = _COMMAND_S,
    errors_too: bool = False,
) -> str:
    """Standard output of a command, with `errors_too` its other stream as well; raises CommandFailed with both where
    it does not end with 0."""
    done = subprocess.run(
        [str(part) for part in argv],
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"{argv!r} ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout + (done.stderr if errors_too else "")


def scratch_directory(purpose: str) -> Path:
    """A directory on disk: /tmp may be memory, and images need gigabytes. The caller removes it."""
    return Path(tempfile.mkdtemp(prefix=f"speedy-{purpose}-", dir=os.environ.get("TMPDIR", "/var/tmp")))


def end_daemon(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to one that does not end in time."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_S)


def remove_directory(directory: Path) -> None:
    """Removes it, and before that what a client left mounted below it."""
    with Path("/proc/self/mounts").open() as mounts:
        below = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{directory}/")]
    for mount in reversed(below):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True, timeout=_STOP_S)
    shutil.rmtree(directory, ignore_errors=True)


class ImageClient(Protocol):
    """What the tests ask of docker and podman alike. A reference is host:port/name:tag."""

    name: str

    def load(self, image: Image, reference: str) -> None:
        """Takes an image from its archive into local storage under that reference."""
        ...

    def push(self, reference: str) -> None: ...

    def pull(self, reference: str) -> None: ...

    def remove(self, reference: str) -> None:
        """Removes the image, under all its names, and its layers; a later pull has to fetch them."""
        ...

    def image_id(self, reference: str) -> str | None:
        """Id of the local image ("sha256:..."), None where there is none."""
        ...


class Docker:
    """A dockerd with its own data and socket, and the docker command talking to it.

    It changes no firewall rule and makes no docker0: a second daemon on the machine is not disturbed. Containers reach
    each other over networks that compose makes, and published ports go through docker's own proxy.
    """

    name = "docker"

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self.env = {
            "DOCKER_HOST": f"unix://{directory}/docker.sock",
            "DOCKER_CONFIG": str(directory / "config"),
            "DOCKER_BUILDKIT": "0",  # the classic builder must do for our Dockerfile
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }
        self._process = process
        # Debian's own command first: another one on the PATH may be too new for the daemon.
        self.command = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else str(program("docker", "docker.io"))

    @classmethod
    def start(cls) -> Self:
        """A running daemon; ends the test as not run where docker is missing or root is not there."""
        root()
        dockerd = program("dockerd", "docker.io")
        program("docker", "docker.io")
        errors = []
        for storage_driver in ("overlay2", "vfs"):  # not every file system can carry overlay2
            directory = scratch_directory("docker")
            try:
                return cls._start(dockerd, directory, storage_driver)
            except RuntimeError as error:
                errors.append(f"{storage_driver}: {error}")
                remove_directory(directory)
        raise RuntimeError("dockerd does not start\n" + "\n".join(errors))

    @classmethod
    def _start(cls, dockerd: Path, directory: Path, storage_driver: str) -> Self:
        argv = ["setpriv", "--pdeathsig", "TERM", "--", str(dockerd), "--storage-driver", storage_driver]
        argv += ["--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"]
        argv += ["--host", f"unix://{directory}/docker.sock", "--pidfile", f"{directory}/pid"]
        argv += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        docker = cls(directory, process)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                docker.run("info", timeout_s=10)
            except (CommandFailed, subprocess.TimeoutExpired):
                if process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                end_daemon(docker._process)
                raise RuntimeError((directory / "log").read_text(errors="replace")[-4000:]) from None
            return docker

    def run(self, *arguments: str | Path, timeout_s: float = _COMMAND_S) -> str:
        return run([self.command, *arguments], env=self.env, timeout_s=timeout_s)

    def load(self, image: Image, reference: str) -> None:
        self.run("load", "--quiet", "--input", image.archive)
        self.run("tag", f"{image.name}:latest", reference)

    def push(self, reference: str) -> None:
        self.run("push", reference)

    def pull(self, reference: str) -> None:
        self.run("pull", reference)

    def remove(self, reference: str) -> None:
        self.run("rmi", "--force", self.image_id(reference) or reference)

    def image_id(self, reference: str) -> str | None:
        return self.run("images", "--no-trunc", "--quiet", reference).strip() or None

    def close(self) -> None:
        end_daemon(self._process)
        remove_directory(self.directory)


class Podman:
    """podman with storage of its own; needs no daemon. With `partial_pulls` it fetches only the files of a
    zstd:chunked layer that it lacks, by ranges."""

    name = "podman"

    def __init__(self, directory: Path, *, partial_pulls: bool = False) -> None:
        self.directory = directory
        self._argv: list[str | Path] = [program("podman"), "--tmpdir", directory / "tmp"]
        self._argv += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        self._env = {"HOME": str(directory), "REGISTRY_AUTH_FILE": str(no_logins(directory))}
        if partial_pulls:  # an option of the file alone, and only the overlay driver has it
            (directory / "storage.conf").write_text(
                f'[storage]\ndriver = "overlay"\nrunroot = "{directory}/run"\ngraphroot = "{directory}/root"\n'
                '[storage.options]\npull_options = {enable_partial_images = "true"}\n'
            )
            self._env["CONTAINERS_STORAGE_CONF"] = str(directory / "storage.conf")
        else:
            self._argv += ["--root", directory / "root", "--runroot", directory / "run"]

    @classmethod
    def start(cls, *, partial_pulls: bool = False) -> Self:
        root()
        program("podman")
        directory = scratch_directory("podman")
        try:
            podman = cls(directory, partial_pulls=partial_pulls)
            podman.run("info")
        except CommandFailed as error:
            remove_directory(directory)
            not_run(f"podman does not work here: {error}")
        return podman

    def run(self, *arguments: str | Path) -> str:
        return run([*self._argv, *arguments], env=self._env)

    def load(self, image: Image, reference: str) -> None:
        self.run("load", "--quiet", "--input", image.archive)
        self.run("tag", f"localhost/{image.name}:latest", reference)

    def push(self, reference: str) -> None:
        self.run("push", "--quiet", "--tls-verify=false", reference)

    def pull(self, reference: str) -> None:
        self.run("pull", "--quiet", "--tls-verify=false", reference)

    def pull_telling(self, reference: str) -> str:
        """Pull, and what podman says of how it does."""
        pull = ["--log-level", "debug", "pull", "--quiet", "--tls-verify=false", reference]
        return run([*self._argv, *pull], env=self._env, errors_too=True)

    def remove(self, reference: str) -> None:
        self.run("rmi", "--force", self.image_id(reference) or reference)

    def image_id(self, reference: str) -> str | None:
        return self.run("images", "--no-trunc", "--quiet", reference).strip() or None

    def close(self) -> None:
        remove_directory(self.directory)


class Skopeo:
    """skopeo: copies between places, keeps no storage."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._skopeo = program("skopeo")
        self._env = {"HOME": str(directory), "REGISTRY_AUTH_FILE": str(no_logins(directory))}

    @classmethod
    def start(cls) -> Self:
        program("skopeo")
        return cls(scratch_directory("skopeo"))

    def copy(self, source: str, destination: str, *options: str) -> None:
        """Copy between any of skopeo's places ("docker://host/name:tag", "oci:dir:tag", "docker-archive:file")."""
        tls = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        self.run("copy", "--quiet", *tls, *options, source, destination)

    def inspect(self, reference: str, *options: str) -> Any:
        return json.loads(self.run("inspect", "--tls-verify=false", *options, f"docker://{reference}"))

    def run(self, *arguments: str | Path) -> str:
        return run([self._skopeo, "--insecure-policy", "--tmpdir", self.directory, *arguments], env=self._env)

    def close(self) -> None:
        remove_directory(self.directory)


def no_logins(directory: Path) -> Path:
    """An empty file of logins: the machine's own are nobody's business here."""
    path = directory / "auth.json"
    path.write_text("{}")
    return path
