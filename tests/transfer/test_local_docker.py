"""Images of the local docker: a second push of the same one does not pack it again. Docker is a script here, which
gives out an archive and notes what it was asked; tests/clients/test_transfer.py has the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.images import Image, Index
from tests.transfer.conftest import Client
from tests.transfer.small_registry import SmallRegistry

_SCRIPT = """#!/bin/sh
echo "$1 $2" >> "{directory}/asked"
case "$1 $2" in
"image inspect") cat "{directory}/id" ;;
"save --output") cp "{directory}/image.tar" "$3" ;;
*) exit 1 ;;
esac
"""


class LocalDocker:
    """Has one image, under any name."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        command = directory / "docker"
        command.write_text(_SCRIPT.format(directory=directory))
        command.chmod(0o755)

    def has(self, image: Image) -> None:
        (self._directory / "id").write_text(f"{image.image_id}\n")
        link = self._directory / "image.tar"
        link.unlink(missing_ok=True)
        link.symlink_to(image.archive)

    def forgets_ids(self) -> None:
        (self._directory / "id").unlink()

    @property
    def saves(self) -> int:
        return (self._directory / "asked").read_text().count("save")


@pytest.fixture
def docker(client: Client, small: Image) -> LocalDocker:
    docker = LocalDocker(client.directory / "bin")
    docker.has(small)
    client.variables["PATH"] = f"{client.directory}/bin:{os.environ['PATH']}"
    return docker


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with SmallRegistry() as registry:
        yield registry


def test_an_image_that_was_pushed_before_is_not_packed_again(
    client: Client, docker: LocalDocker, registry: SmallRegistry
) -> None:
    first = client.run("push", "docker-daemon:app:v1", f"{registry.address}/a:v1", "--quiet").stdout
    registry.requests.clear()
    again = client.run("push", "docker-daemon:app:v1", f"{registry.address}/a:v2", "--quiet").stdout
    assert docker.saves == 1
    assert again == first
    assert registry.content.manifests["v2"] == registry.content.manifests["v1"]
    assert [method for method, path, _ in registry.requests if method != "HEAD"] == ["PUT"]
    other = f"{registry.address}/a@sha256:{'0' * 64}"
    assert "the image has the digest" in client.run("push", "docker-daemon:app:v1", other, code=1).stderr


def test_what_the_registry_has_lost_is_packed_and_sent_again(
    client: Client, docker: LocalDocker, registry: SmallRegistry
) -> None:
    arguments = ["push", "docker-daemon:app:v1", f"{registry.address}/a:v1"]
    client.run(*arguments)
    stored = dict(registry.content.blobs)
    del registry.content.blobs[max(stored, key=lambda digest: len(stored[digest]))]
    assert "1 pushed" in client.run(*arguments).stderr
    assert docker.saves == 2
    assert registry.content.blobs == stored


def test_another_image_or_form_is_packed(
    client: Client, docker: LocalDocker, registry: SmallRegistry, platforms: Index
) -> None:
    arguments = ["push", "docker-daemon:app:v1", f"{registry.address}/a:v1", "--quiet"]
    digests = {client.run(*arguments, *more).stdout for more in ([], ["--format", "oci"], ["--no-compression"])}
    docker.has(platforms.images[1])
    digests.add(client.run(*arguments).stdout)
    assert (len(digests), docker.saves) == (4, 4)


def test_without_an_id_or_with_a_damaged_record_it_is_packed(
    client: Client, docker: LocalDocker, registry: SmallRegistry
) -> None:
    arguments = ["push", "docker-daemon:app:v1", f"{registry.address}/a:v1"]
    client.run(*arguments)
    (record,) = (client.cache / "speedy" / "images").iterdir()
    record.write_bytes(record.read_bytes().replace(b"size", b"sise"))
    client.run(*arguments)
    assert docker.saves == 2
    docker.forgets_ids()
    client.run(*arguments)
    assert docker.saves == 3
