"""BuildKit, the one inside Debian's dockerd: caches of builds that are kept in the registry."""

import base64
import json
import uuid
from pathlib import Path

import pytest

from tests.clients import reading
from tests.clients.images import INDEX_TYPE
from tests.clients.layouts import GZIP_TYPE, Layout, document
from tests.clients.targets import Target
from tests.clients.tools import CommandFailed, Docker, Skopeo, run
from tests.needs import not_run

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]

_CACHE_CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"


def _build(docker: Docker, tag: str, context: Path, *options: str) -> str:
    """What BuildKit says while it builds."""
    argv = [docker.command, "build", "--progress", "plain", "--tag", tag, *options, str(context)]
    try:
        return run(argv, env=docker.env | {"DOCKER_BUILDKIT": "1"}, errors_too=True)
    except CommandFailed as error:
        if "buildx component is missing" in str(error):
            not_run("this docker has BuildKit as a plugin of its own, which is not installed (docker-buildx)")
        raise


def _forget(docker: Docker, tag: str) -> None:
    docker.remove(tag)
    docker.run("builder", "prune", "--all", "--force")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "content").write_text(f"{uuid.uuid4()}\n")
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY content /one\nCOPY Dockerfile /two\n")
    return directory


@pytest.mark.feature("docker", "build with BuildKit, --cache-from: the cache in a pushed image, and an index of layers")
def test_buildkit_takes_its_steps_from_caches_in_the_registry(
    docker: Docker, skopeo: Skopeo, target: Target, context: Path, tmp_path: Path
) -> None:
    name = f"{uuid.uuid4().hex[:12]}/buildkit"
    image = f"{target.address}/{name}:v1"
    _build(docker, image, context, "--build-arg", "BUILDKIT_INLINE_CACHE=1")
    docker.push(image)
    _forget(docker, image)
    inline = _build(docker, image, context, "--cache-from", image)
    assert f"importing cache manifest from {image}" in inline
    assert inline.count("CACHED") == 2
    _forget(docker, image)

    cache = f"{target.address}/{name}:cache"
    _push_cache(skopeo, target, name, image, tmp_path / "cache")
    by_layers = _build(docker, image, context, "--cache-from", cache)
    assert f"importing cache manifest from {cache}" in by_layers
    assert by_layers.count("CACHED") == 2
    _forget(docker, image)


def _push_cache(skopeo: Skopeo, target: Target, name: str, image: str, directory: Path) -> None:
    """The image's inline cache in the form of a registry cache: BuildKit in dockerd reads that, but cannot write it."""
    config = skopeo.inspect(image, "--config", "--raw")
    layers = [
        {
            "mediaType": GZIP_TYPE,
            "digest": layer["digest"],
            "size": layer["size"],
            "annotations": {"containerd.io/uncompressed": diff_id, "buildkit/createdat": "2024-01-01T00:00:00Z"},
        }
        for layer, diff_id in zip(skopeo.inspect(image, "--raw")["layers"], config["rootfs"]["diff_ids"], strict=True)
    ]
    chain = [{"blob": layer["digest"], "parent": number - 1} for number, layer in enumerate(layers)]
    records = json.loads(base64.b64decode(config["moby.buildkit.cache.v0"]))
    layout = Layout(directory)
    described = layout.add(document({"layers": chain, "records": records}), _CACHE_CONFIG_TYPE)
    reading.push_blob(target, name, layout.read(described["digest"]), described["digest"])
    top = layout.add_index([*layers, described])
    reading.push_manifest(target, f"{name}:cache", layout.read(top["digest"]), INDEX_TYPE)
