"""speedy push and speedy pull between the local docker and a registry."""

import os
import uuid
from pathlib import Path

import pytest

from tests.clients import targets
from tests.clients.images import Image, build_image
from tests.clients.tools import Docker, run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return build_image(tmp_path, "transfer", layer_sizes=[3_000_000, 700, 5_000], seed=31)


@pytest.mark.feature("docker", "pull of what `speedy push docker-daemon:` pushed; save and load for `speedy pull`")
def test_an_image_goes_from_docker_to_a_registry_and_back(docker: Docker, image: Image, tmp_path: Path) -> None:
    env = docker.env | {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(targets.CHECKOUT),
        # The daemon's own docker: another one on the PATH may be too new for it.
        "PATH": os.pathsep.join([str(Path(docker.command).parent), os.environ["PATH"]]),
    }
    name = f"{uuid.uuid4().hex[:12]}:v1"
    docker.load(image, name)
    with targets.embedded() as target:
        remote = f"{target.address}/from/docker:v1"
        run([*targets.SPEEDY, "push", f"docker-daemon:{name}", remote, "--quiet"], env=env)
        again = [*targets.SPEEDY, "push", f"docker-daemon:{name}", f"{remote}-again"]
        assert "docker save" not in run(again, env=env, errors_too=True)
        docker.remove(name)
        docker.pull(f"{remote}-again")
        assert docker.image_id(f"{remote}-again") == image.image_id
        docker.remove(f"{remote}-again")
        docker.pull(remote)
        assert docker.image_id(remote) == image.image_id
        docker.remove(remote)
        run([*targets.SPEEDY, "pull", remote, f"docker-daemon:{name}", "--quiet"], env=env)
    assert docker.image_id(name) == image.image_id
    docker.remove(name)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert left == []
