"""docker-compose.yml, brought up in a dockerd of the tests: our own image from our own Dockerfile.

Images cannot be fetched everywhere, so none is: debian:bookworm-slim is a debootstrapped Debian 12, and postgres:15 and
nginx:stable are stand-ins made of Debian's packages (tests/clients/standins), under the names that the file uses. What
runs in them are the real servers; what is not tested is the packaging of those two images.
"""

import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.tools import CommandFailed, Docker, run, scratch_directory
from tests.needs import not_run, program
from tests.ports import free_port

CHECKOUT = Path(__file__).parents[2]
IMAGE = "speedy-registry:tests"

_BUILD_S = 600.0
_UP_S = 240.0
_BUILD_TRIES_MAX = 3  # each step fetches packages over the network; finished steps are kept


def build_images(docker: Docker) -> None:
    """All images that the compose file names; about two minutes the first time."""
    program("debootstrap")
    base = run([CHECKOUT / "tests/packaging/base_system.sh", "bookworm"], timeout_s=_BUILD_S).strip()
    docker.run("import", base, "speedy-tests-debian:latest")
    context = scratch_directory("base-image")
    try:
        _write_base_context(context)
        _build(docker, "debian:bookworm-slim", context)
    finally:
        shutil.rmtree(context)
    _build(docker, IMAGE, CHECKOUT)
    _build(docker, "postgres:15", CHECKOUT / "tests/clients/standins/postgres")
    _build(docker, "nginx:stable", CHECKOUT / "tests/clients/standins/nginx")


def _build(docker: Docker, tag: str, context: Path) -> None:
    for tries_left in reversed(range(_BUILD_TRIES_MAX)):
        try:
            # The machine's own network: our dockerd has no bridge of its own (see Docker).
            docker.run("build", "--quiet", "--network", "host", "--tag", tag, context, timeout_s=_BUILD_S)
        except CommandFailed:
            if tries_left == 0:
                raise
        else:
            return


def _write_base_context(context: Path) -> None:
    """The base image, plus what pip on this machine is told about its package index: a mirror, a company's CA."""
    settings = {}
    for key in ("index-url", "extra-index-url", "trusted-host", "proxy"):
        value = _pip_setting(key)
        if value:
            settings[key] = value
    certificates = _pip_setting("cert") or os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    (context / "ca.pem").write_bytes(Path(certificates).read_bytes() if certificates else b"")
    if certificates:
        settings["cert"] = "/etc/ssl/speedy-tests-ca.pem"
    (context / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    (context / "Dockerfile").write_text(
        "FROM speedy-tests-debian:latest\nCOPY ca.pem /etc/ssl/speedy-tests-ca.pem\nCOPY pip.conf /etc/pip.conf\n"
    )


def _pip_setting(key: str) -> str | None:
    for section in (":env:", "install", "global"):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", f"{section}.{key}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return None


class ComposeCluster:
    """The whole file, up and healthy; `address` is where its nginx is published."""

    name = "compose"

    def __init__(self, docker: Docker, project: str = "speedytests") -> None:
        self.docker = docker
        self.project = project
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._compose = _compose_command(docker)

    def compose(self, *arguments: str, timeout_s: float = _UP_S) -> str:
        files = ["--project-name", self.project, "--file", str(CHECKOUT / "docker-compose.yml")]
        env = {**self.docker.env, "SPEEDY_PORT": str(self.port), "SPEEDY_IMAGE": IMAGE}
        return run([*self._compose, *files, *arguments], env=env, timeout_s=timeout_s)

    def up(self) -> None:
        """As a user would, but for the images, which stand there already. Ends when the registries are healthy."""
        try:
            self.compose("up", "--detach", "--no-build")
        except CommandFailed as error:
            logs = self.compose("logs", "--no-color", "--tail=30")
            raise CommandFailed(f"{error}\n{logs[-12000:]}") from None

    def down(self) -> None:
        """Stops and removes the containers; the volumes stay."""
        self.compose("down", "--timeout", "20")

    def containers(self) -> list[dict[str, Any]]:
        """docker inspect of every container of the project, also of those that have ended."""
        ids = self.docker.run(
            "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.project}"
        ).split()
        inspected: list[dict[str, Any]] = json.loads(self.docker.run("inspect", *ids))
        return inspected

    def container(self, service: str) -> dict[str, Any]:
        for container in self.containers():
            if container["Config"]["Labels"]["com.docker.compose.service"] == service:
                return container
        raise LookupError(service)


def _compose_command(docker: Docker) -> list[str]:
    """`docker compose` where docker has that plugin, else docker-compose 1.29; ends the test where there is neither."""
    try:
        docker.run("compose", "version")
    except CommandFailed:
        if shutil.which("docker-compose") is None:
            not_run("neither docker compose nor docker-compose is installed")
        return [str(program("docker-compose"))]
    return [docker.command, "compose"]
