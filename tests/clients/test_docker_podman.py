"""What docker and podman do beside plain pushes and pulls: mounts, digests, all tags, searches, parts of layers."""

import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.images import Image, Index, build_image
from tests.clients.targets import Target
from tests.clients.tools import Docker, Podman, Skopeo

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]


@pytest.fixture(scope="session")
def partial_podman() -> Iterator[Podman]:
    podman = Podman.start(partial_pulls=True)
    try:
        yield podman
    finally:
        podman.close()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return build_image(tmp_path, "small", layer_sizes=[300_000, 700], seed=random.getrandbits(32))


def _namespace(target: Target) -> str:
    return f"{target.address}/{uuid.uuid4().hex[:12]}"


@pytest.mark.feature("docker", "push: layers mounted from another repository, or there already")
def test_docker_mounts_layers_from_another_repository(docker: Docker, target: Target, image: Image) -> None:
    namespace = _namespace(target)
    docker.load(image, f"{namespace}/one:v1")
    docker.push(f"{namespace}/one:v1")
    docker.run("tag", f"{namespace}/one:v1", f"{namespace}/two:v1")
    source = f"{namespace}/one".partition("/")[2]
    assert docker.run("push", f"{namespace}/two:v1").count(f"Mounted from {source}") == len(image.layers)
    assert docker.run("push", f"{namespace}/two:v1").count("Layer already exists") == len(image.layers)
    docker.remove(f"{namespace}/two:v1")
    docker.pull(f"{namespace}/two:v1")
    assert docker.image_id(f"{namespace}/two:v1") == image.image_id
    docker.remove(f"{namespace}/two:v1")


@pytest.mark.feature("docker", "push and pull --all-tags, pull by digest")
def test_docker_pushes_and_pulls_all_tags_and_by_digest(
    docker: Docker, skopeo: Skopeo, target: Target, image: Image
) -> None:
    repository = f"{_namespace(target)}/tags"
    docker.load(image, f"{repository}:v1")
    docker.run("tag", f"{repository}:v1", f"{repository}:v2")
    docker.run("push", "--all-tags", repository)
    docker.remove(f"{repository}:v1")
    docker.run("pull", "--all-tags", repository)
    assert {docker.image_id(f"{repository}:{tag}") for tag in ("v1", "v2")} == {image.image_id}
    docker.remove(f"{repository}:v1")
    digest = skopeo.inspect(f"{repository}:v2")["Digest"]
    docker.pull(f"{repository}@{digest}")
    assert docker.image_id(f"{repository}@{digest}") == image.image_id
    docker.remove(f"{repository}@{digest}")


@pytest.mark.feature("docker", "build: FROM an image of the registry, in OCI's form")
def test_docker_builds_on_an_oci_image_of_the_registry(
    docker: Docker, skopeo: Skopeo, target: Target, image: Image, tmp_path: Path
) -> None:
    namespace = _namespace(target)
    skopeo.copy(f"docker-archive:{image.archive}", f"docker://{namespace}/base:v1", "--format", "oci")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {namespace}/base:v1\nCOPY Dockerfile /Dockerfile\n")
    docker.run("build", "--quiet", "--pull", "--tag", f"{namespace}/derived:v1", context)
    docker.push(f"{namespace}/derived:v1")
    layers = skopeo.inspect(f"{namespace}/derived:v1", "--config")["rootfs"]["diff_ids"]
    assert layers[:-1] == [layer.digest for layer in image.layers]
    docker.remove(f"{namespace}/derived:v1")
    docker.remove(f"{namespace}/base:v1")


@pytest.mark.feature("podman", "search: the catalogue, and the tags of a repository")
def test_podman_searches_repositories_and_tags(
    podman: Podman, skopeo: Skopeo, target: Target, platforms: Index
) -> None:
    repository = f"{_namespace(target)}/searched"
    for tag in ("v1", "v2"):
        skopeo.copy(f"oci:{platforms.layout}:latest", f"docker://{repository}:{tag}", "--all")
    search = ["search", "--tls-verify=false", "--limit", "1000"]
    assert repository in podman.run(*search, f"{target.address}/").split()
    listed = podman.run(*search, "--list-tags", repository).split()
    assert listed == ["NAME", "TAG", repository, "v1", repository, "v2"]


@pytest.mark.feature("podman", "manifest create, add, push --all; pull of each platform")
def test_podman_pushes_a_list_and_pulls_each_platform(
    podman: Podman, skopeo: Skopeo, target: Target, platforms: Index
) -> None:
    repository = f"{_namespace(target)}/list"
    podman.run("manifest", "create", f"{repository}:v1")
    for image in platforms.images:
        part = f"{repository}:{image.architecture}"
        skopeo.copy(f"docker-archive:{image.archive}", f"docker://{part}")
        podman.run("manifest", "add", "--tls-verify=false", f"{repository}:v1", f"docker://{part}")
    podman.run("manifest", "push", "--tls-verify=false", "--all", f"{repository}:v1", f"docker://{repository}:v1")
    podman.run("manifest", "rm", f"{repository}:v1")
    for image in platforms.images:
        podman.run("pull", "--quiet", "--tls-verify=false", "--arch", image.architecture, f"{repository}:v1")
        assert podman.image_id(f"{repository}:v1") == image.image_id
        podman.remove(f"{repository}:v1")


@pytest.mark.feature("podman", "push --compression-format zstd:chunked, partial pull by ranges")
def test_podman_pulls_only_the_files_of_a_layer_that_it_lacks(
    partial_podman: Podman, target: Target, tmp_path: Path
) -> None:
    podman = partial_podman
    repository = f"{_namespace(target)}/chunked"
    randomness = random.Random(7)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY data /data\n")
    (tmp_path / "data").mkdir()
    for number in range(20):
        (tmp_path / f"data/{number:02d}").write_bytes(randomness.randbytes(100_000))
    push = ["push", "--quiet", "--tls-verify=false", "--compression-format", "zstd:chunked"]
    for tag in ("v1", "v2"):
        podman.run("build", "--quiet", "--tag", f"{repository}:{tag}", tmp_path)
        podman.run(*push, f"{repository}:{tag}")
        for number in (3, 9, 16):  # apart from each other: the next image differs in three ranges of its layer
            (tmp_path / f"data/{number:02d}").write_bytes(randomness.randbytes(90_000))
    podman.run("rmi", "--all", "--force")
    for tag in ("v1", "v2"):
        assert "Retrieved partial blob" in podman.pull_telling(f"{repository}:{tag}")
    podman.run("rmi", "--all", "--force")
