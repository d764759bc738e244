"""One of each for the whole session: a dockerd takes seconds to start, a cluster and the images longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import targets
from tests.clients.builders import Buildah
from tests.clients.compose import ComposeCluster, build_images
from tests.clients.containerd import Containerd
from tests.clients.images import Image, Index, build_image, build_index
from tests.clients.targets import Target
from tests.clients.tools import Docker, Podman, Skopeo, remove_directory, scratch_directory
from tests.postgres import PostgresServer


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    docker = Docker.start()
    try:
        yield docker
    finally:
        docker.close()


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    podman = Podman.start()
    try:
        yield podman
    finally:
        podman.close()


@pytest.fixture(scope="session")
def skopeo() -> Iterator[Skopeo]:
    skopeo = Skopeo.start()
    try:
        yield skopeo
    finally:
        skopeo.close()


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    buildah = Buildah.start()
    try:
        yield buildah
    finally:
        buildah.close()


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    containerd = Containerd.start()
    try:
        yield containerd
    finally:
        containerd.close()


@pytest.fixture(scope="session")
def compose(docker: Docker) -> Iterator[ComposeCluster]:
    """docker-compose.yml, up. Everything of it is gone with the dockerd."""
    build_images(docker)
    cluster = ComposeCluster(docker)
    cluster.up()
    yield cluster
    cluster.compose("kill")  # stopping in order is what test_compose shows; here only the end counts


@pytest.fixture(scope="session")
def embedded() -> Iterator[Target]:
    with targets.embedded() as target:
        yield target


@pytest.fixture(scope="session")
def cluster(postgres_server: PostgresServer) -> Iterator[Target]:
    with postgres_server.database() as url, targets.cluster(url) as target:
        yield target


@pytest.fixture(scope="session", params=["embedded", "cluster", "compose"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each way to run the registry in turn. Each runs until the session ends: files choose among them, and one that
    ended with its last test in a file would be started again for the next file."""
    target: Target = request.getfixturevalue(request.param)
    return target


@pytest.fixture(scope="session")
def image_directory() -> Iterator[Path]:
    directory = scratch_directory("images")
    yield directory
    remove_directory(directory)


@pytest.fixture(scope="session")
def many_layers(image_directory: Path) -> Image:
    """40 layers of some KiB: many small requests, and chunks far below the chunk size."""
    return build_image(image_directory, "many-layers", layer_sizes=[3_000 + 700 * n for n in range(40)], seed=1)


@pytest.fixture(scope="session")
def big_layer(image_directory: Path) -> Image:
    """One layer over 500 MiB between two ordinary ones."""
    return build_image(image_directory, "big-layer", layer_sizes=[2_000_000, 520 << 20, 70_000], seed=2)


@pytest.fixture(scope="session")
def platforms(image_directory: Path) -> Index:
    """One name for two platforms, with layers around the chunk size of 4 MiB."""
    sizes = {"amd64": [4 << 20, 9_000_001], "arm64": [(4 << 20) - 1536, 123]}
    images = [
        build_image(image_directory, f"platform-{name}", layer_sizes=sizes[name], seed=3 + n, architecture=name)
        for n, name in enumerate(sizes)
    ]
    return build_index(image_directory, "platforms", images)
