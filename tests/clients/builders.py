"""Builders of images: buildah, which pushes and pulls by itself, and umoci, which works on OCI layouts."""

from pathlib import Path
from typing import Self

from tests.clients.tools import CommandFailed, no_logins, remove_directory, run, scratch_directory
from tests.needs import not_run, program, root


class Buildah:
    """buildah with storage of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._argv: list[str | Path] = [program("buildah")]
        self._argv += ["--root", directory / "root", "--runroot", directory / "run"]
        # chroot: nothing is run here, but the default looks for a runtime and its cgroups.
        self._env = {
            "HOME": str(directory),
            "REGISTRY_AUTH_FILE": str(no_logins(directory)),
            "BUILDAH_ISOLATION": "chroot",
        }

    @classmethod
    def start(cls) -> Self:
        root()
        program("buildah")
        directory = scratch_directory("buildah")
        try:
            buildah = cls(directory)
            buildah.run("info")
        except CommandFailed as error:
            remove_directory(directory)
            not_run(f"buildah does not work here: {error}")
        return buildah

    def run(self, *arguments: str | Path) -> str:
        return run([*self._argv, *arguments], env=self._env)

    def clear(self) -> None:
        """Removes all containers and images: whatever is needed next has to be fetched."""
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")

    def close(self) -> None:
        remove_directory(self.directory)


class Umoci:
    """umoci on one OCI layout, which it makes. Images are named by tags in that layout."""

    def __init__(self, layout: Path) -> None:
        self.layout = layout
        self._umoci = program("umoci")
        if not layout.exists():
            self.run("init", "--layout", layout)

    def run(self, *arguments: str | Path) -> str:
        return run([self._umoci, *arguments])

    def image(self, tag: str) -> str:
        """The image as umoci's --image wants it."""
        return f"{self.layout}:{tag}"
