"""What docker, podman and skopeo push comes back bit for bit, from every way to run the registry."""

import uuid

import pytest

from tests.clients.images import Image, Index, build_index, layout_blobs
from tests.clients.targets import Target
from tests.clients.tools import Docker, ImageClient, Podman, Skopeo

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]  # images are built in the first one


def _fresh_reference(target: Target, image: Image) -> str:
    """A repository that nobody used before: nothing is there already."""
    return f"{target.address}/{uuid.uuid4().hex[:12]}/{image.name}:v1"


def _comes_back(client: ImageClient, target: Target, image: Image) -> None:
    """Load, push, delete locally, pull. The id covers the configuration, which names the digest of every layer."""
    reference = _fresh_reference(target, image)
    client.load(image, reference)
    client.push(reference)
    client.remove(reference)
    assert client.image_id(reference) is None
    client.pull(reference)
    assert client.image_id(reference) == image.image_id
    client.remove(reference)


@pytest.mark.feature("docker", "push, pull: 40 small layers")
def test_docker_gets_an_image_of_forty_layers_back(docker: Docker, target: Target, many_layers: Image) -> None:
    _comes_back(docker, target, many_layers)


@pytest.mark.feature("podman", "push, pull: 40 small layers")
@pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True)
def test_podman_gets_an_image_of_forty_layers_back(podman: Podman, target: Target, many_layers: Image) -> None:
    _comes_back(podman, target, many_layers)


# Every client and every target once: what takes half a minute each is not done nine times.
@pytest.mark.feature("docker", "push, pull: a layer over 500 MiB")
@pytest.mark.parametrize("target", ["compose"], indirect=True)
def test_docker_gets_a_layer_over_500_mib_back(docker: Docker, target: Target, big_layer: Image) -> None:
    assert max(layer.length for layer in big_layer.layers) > 500 << 20
    _comes_back(docker, target, big_layer)


@pytest.mark.feature("podman", "push, pull: a layer over 500 MiB")
@pytest.mark.parametrize("target", ["cluster"], indirect=True)
def test_podman_gets_a_layer_over_500_mib_back(podman: Podman, target: Target, big_layer: Image) -> None:
    _comes_back(podman, target, big_layer)


@pytest.mark.feature("skopeo", "copy: a layer over 500 MiB, byte for byte")
@pytest.mark.parametrize("target", ["embedded"], indirect=True)
def test_skopeo_gets_a_layer_over_500_mib_back(skopeo: Skopeo, target: Target, big_layer: Image) -> None:
    layout = build_index(skopeo.directory, "big-layer", [big_layer]).layout
    reference = f"docker://{_fresh_reference(target, big_layer)}"
    back = skopeo.directory / "big-layer-back"
    skopeo.copy(f"oci:{layout}:latest", reference, "--all", "--preserve-digests")
    skopeo.copy(reference, f"oci:{back}:latest", "--all", "--preserve-digests")
    assert layout_blobs(back) == layout_blobs(layout)


@pytest.mark.feature("docker", "pull: what podman pushed")
@pytest.mark.feature("podman", "pull: what docker pushed")
def test_podman_pulls_what_docker_pushed_and_the_other_way_round(
    docker: Docker, podman: Podman, target: Target, platforms: Index
) -> None:
    image = platforms.images[0]
    sides: tuple[tuple[ImageClient, ImageClient], ...] = ((docker, podman), (podman, docker))
    for sender, receiver in sides:
        reference = _fresh_reference(target, image)
        sender.load(image, reference)
        sender.push(reference)
        sender.remove(reference)
        receiver.pull(reference)
        assert receiver.image_id(reference) == image.image_id
        receiver.remove(reference)


@pytest.mark.feature("docker", "manifest create, push; pull of each platform")
def test_docker_pulls_each_platform_of_a_manifest_list(docker: Docker, target: Target, platforms: Index) -> None:
    reference = f"{target.address}/{uuid.uuid4().hex[:12]}/platforms"
    for image in platforms.images:
        docker.load(image, f"{reference}:{image.architecture}")
        docker.push(f"{reference}:{image.architecture}")
    parts = [f"{reference}:{image.architecture}" for image in platforms.images]
    docker.run("manifest", "create", "--insecure", f"{reference}:v1", *parts)
    docker.run("manifest", "push", "--insecure", f"{reference}:v1")
    for part in parts:
        docker.remove(part)
    for image in platforms.images:
        docker.run("pull", "--quiet", "--platform", f"linux/{image.architecture}", f"{reference}:v1")
        assert docker.image_id(f"{reference}:v1") == image.image_id
        docker.remove(f"{reference}:v1")


@pytest.mark.feature("skopeo", "copy: an index with all its images, byte for byte")
def test_skopeo_gets_an_index_of_two_platforms_back_byte_for_byte(
    skopeo: Skopeo, target: Target, platforms: Index
) -> None:
    reference = f"docker://{target.address}/{uuid.uuid4().hex[:12]}/platforms:v1"
    back = skopeo.directory / f"back-{target.name}"
    skopeo.copy(f"oci:{platforms.layout}:latest", reference, "--all", "--preserve-digests")
    skopeo.copy(reference, f"oci:{back}:latest", "--all", "--preserve-digests")
    blobs = layout_blobs(back)
    assert platforms.digest in blobs
    assert blobs == layout_blobs(platforms.layout)


@pytest.mark.feature("skopeo", "copy: a docker archive, as docker v2s2; inspect of the configuration")
@pytest.mark.feature("podman", "pull: what skopeo pushed")
def test_skopeo_pushes_an_archive_that_podman_pulls(
    skopeo: Skopeo, podman: Podman, target: Target, platforms: Index
) -> None:
    image = platforms.images[0]
    reference = _fresh_reference(target, image)
    skopeo.copy(f"docker-archive:{image.archive}", f"docker://{reference}")
    podman.pull(reference)
    assert podman.image_id(reference) == image.image_id
    podman.remove(reference)
    listed = skopeo.inspect(reference, "--config")["rootfs"]["diff_ids"]
    assert listed == [layer.digest for layer in image.layers]
