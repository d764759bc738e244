"""Registries, images and the client itself, each as real as it gets."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from speedy.cli import main
from tests.clients.images import Image, Index, build_image, build_index
from tests.clients.tools import remove_directory, scratch_directory
from tests.speedy.embedded import environment
from tests.transfer.registries import DockerRegistry, Registry, Speedy

_KINDS: dict[str, type[Speedy] | type[DockerRegistry]] = {"speedy": Speedy, "docker-registry": DockerRegistry}


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said."""

    stdout: str
    stderr: str


class Client:
    """`speedy push` and `speedy pull` with a cache and a docker configuration of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.docker_config = directory / "docker"
        self.docker_config.mkdir()
        #: more for the environment
        self.variables: dict[str, str] = {}

    def run(self, *arguments: str | Path, stdin: str = "", code: int = 0) -> Done:
        """To its end, which must have that exit code; in this process, which saves a second each time."""
        out, err = io.StringIO(), io.StringIO()
        before, before_argv, before_stdin = dict(os.environ), sys.argv, sys.stdin
        os.environ.update(self._environment())
        sys.argv, sys.stdin = ["speedy", *map(str, arguments)], io.StringIO(stdin)
        found = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as end:
            found = int(end.code or 0)
        finally:
            sys.argv, sys.stdin = before_argv, before_stdin
            os.environ.clear()
            os.environ.update(before)
        done = Done(out.getvalue(), err.getvalue())
        assert found == code, f"{arguments}: {found}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """As a process, which the test may kill. Its words come together on standard output.

        Ctrl-C reaches it also where the tests run in the background of a shell, which ignores it for all below.
        """
        return subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "speedy", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
        )

    def _environment(self) -> dict[str, str]:
        return environment(XDG_CACHE_HOME=str(self.cache), DOCKER_CONFIG=str(self.docker_config), **self.variables)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    (tmp_path / "client").mkdir()
    return Client(tmp_path / "client")


@pytest.fixture(scope="session")
def work() -> Iterator[Path]:
    directory = scratch_directory("transfer")
    yield directory
    remove_directory(directory)


@pytest.fixture(scope="session")
def start_registry(work: Path) -> Iterator[Callable[[str], Registry]]:
    """Starts one that the test may kill; all end with the session."""
    started: list[Registry] = []

    def start(kind: str) -> Registry:
        directory = work / f"{kind}-{len(started)}"
        directory.mkdir()
        started.append(_KINDS[kind](directory))
        return started[-1]

    yield start
    for registry in started:
        registry.close()


@pytest.fixture(scope="module", params=list(_KINDS))
def registry(request: pytest.FixtureRequest, start_registry: Callable[[str], Registry]) -> Iterator[Registry]:
    """Each kind in turn, running. A test that kills it starts it again."""
    running = start_registry(request.param)
    yield running
    running.close()


@pytest.fixture(scope="session")
def small(work: Path) -> Image:
    """Layers on both sides of what goes into one request."""
    return build_image(work, "small", layer_sizes=[3 << 20, 1_500_000, 700, 0], seed=21)


@pytest.fixture(scope="session")
def platforms(work: Path, small: Image) -> Index:
    other = build_image(work, "other", layer_sizes=[2 << 20, 100], seed=22, architecture="arm64")
    return build_index(work, "platforms", [small, other])


@pytest.fixture(scope="session")
def huge(work: Path) -> Index:
    """One layer over 100 MiB, and a small one."""
    image = build_image(work, "huge", layer_sizes=[104 << 20, 5 << 20], seed=23)
    return build_index(work, "huge", [image])
