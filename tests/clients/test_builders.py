"""buildah and umoci: images built here, kept in the registry, built upon, and caches of builds."""

import json
import uuid
from pathlib import Path

import pytest

from tests.clients.builders import Buildah, Umoci
from tests.clients.images import INDEX_TYPE, MANIFEST_TYPE
from tests.clients.layouts import DOCKER_LIST_TYPE, DOCKER_MANIFEST_TYPE
from tests.clients.targets import Target
from tests.clients.tools import Skopeo

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]

_PLAIN = "--tls-verify=false"


def _namespace(target: Target) -> str:
    return f"{target.address}/{uuid.uuid4().hex[:12]}"


def _context(directory: Path, dockerfile: str) -> Path:
    directory.mkdir()
    (directory / "Dockerfile").write_text(dockerfile)
    (directory / "content").write_text(f"{uuid.uuid4()}\n")
    return directory


@pytest.mark.feature("buildah", "build, push, from, commit: an image built on one from the registry")
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_an_image_is_built_on_one_that_was_pushed(
    buildah: Buildah, skopeo: Skopeo, target: Target, tmp_path: Path, form: str
) -> None:
    base, derived = (f"{_namespace(target)}/{name}:v1" for name in ("base", "derived"))
    context = _context(tmp_path / "base", "FROM scratch\nCOPY content /content\nENV made=here\n")
    buildah.run("build", "--layers", "--tag", base, context)
    buildah.run("push", "--quiet", _PLAIN, "--format", form, base)
    buildah.clear()
    container = buildah.run("from", "--quiet", _PLAIN, base).strip()
    buildah.run("copy", "--quiet", container, context / "Dockerfile", "/Dockerfile")
    buildah.run("commit", "--quiet", container, derived)
    buildah.run("push", "--quiet", _PLAIN, "--format", form, derived)
    buildah.clear()
    mounted = Path(buildah.run("from", "--quiet", _PLAIN, derived).strip())
    root = Path(buildah.run("mount", str(mounted)).strip())
    for name in ("content", "Dockerfile"):
        assert (root / name).read_text() == (context / name).read_text()
    buildah.clear()
    document = skopeo.inspect(derived, "--raw")
    assert document.get("mediaType", MANIFEST_TYPE) == {"oci": MANIFEST_TYPE, "v2s2": DOCKER_MANIFEST_TYPE}[form]
    lower = skopeo.inspect(base, "--config")["rootfs"]["diff_ids"]
    assert skopeo.inspect(derived, "--config")["rootfs"]["diff_ids"][: len(lower)] == lower


@pytest.mark.feature("buildah", "build --cache-to, --cache-from: steps kept in a repository")
def test_a_build_takes_its_steps_from_the_cache_in_the_registry(
    buildah: Buildah, target: Target, tmp_path: Path
) -> None:
    context = _context(tmp_path / "cached", "FROM scratch\nCOPY content /one\nCOPY Dockerfile /two\n")
    cache = f"{_namespace(target)}/cache"
    build = ["build", "--layers", _PLAIN, "--cache-to", cache, "--cache-from", cache, "--tag", "cached", str(context)]
    assert buildah.run(*build).count("Pushing cache") == 2
    buildah.clear()
    assert buildah.run(*build).count("Cache pulled from remote") == 2
    buildah.clear()


@pytest.mark.feature("buildah", "manifest create, add, push --all: as manifest list and as index")
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_list_of_platforms_is_pushed_and_each_is_pulled(
    buildah: Buildah, skopeo: Skopeo, target: Target, tmp_path: Path, form: str
) -> None:
    namespace = _namespace(target)
    both = f"{namespace}/both:v1"
    buildah.run("manifest", "create", both)
    for architecture in ("amd64", "arm64"):
        context = _context(tmp_path / architecture, "FROM scratch\nCOPY content /content\n")
        part = f"{namespace}/part:{architecture}"
        buildah.run("build", "--platform", f"linux/{architecture}", "--tag", part, context)
        buildah.run("push", "--quiet", _PLAIN, "--format", form, part)
        buildah.run("manifest", "add", _PLAIN, both, f"docker://{part}")
    buildah.run("manifest", "push", "--quiet", _PLAIN, "--all", "--format", form, both, f"docker://{both}")
    buildah.clear()
    document = skopeo.inspect(both, "--raw")
    assert document["mediaType"] == {"oci": INDEX_TYPE, "v2s2": DOCKER_LIST_TYPE}[form]
    for architecture in ("amd64", "arm64"):
        buildah.run("pull", "--quiet", _PLAIN, "--platform", f"linux/{architecture}", both)
        told = json.loads(buildah.run("inspect", "--type", "image", both))
        assert told["OCIv1"]["architecture"] == architecture
    buildah.clear()


@pytest.mark.feature("umoci", "new, insert, repack, unpack: with skopeo between layout and registry")
def test_layers_that_umoci_adds_come_back_file_by_file(skopeo: Skopeo, target: Target, tmp_path: Path) -> None:
    reference = f"docker://{_namespace(target)}/umoci"
    (tmp_path / "file").write_text("first\n")
    umoci = Umoci(tmp_path / "there")
    umoci.run("new", "--image", umoci.image("v1"))
    umoci.run("insert", "--image", umoci.image("v1"), tmp_path / "file", "/etc/first")
    umoci.run("config", "--image", umoci.image("v1"), "--config.cmd", "/etc/first")
    skopeo.copy(f"oci:{umoci.image('v1')}", f"{reference}:v1")

    middle = Umoci(tmp_path / "middle")
    skopeo.copy(f"{reference}:v1", f"oci:{middle.image('v1')}")
    middle.run("unpack", "--image", middle.image("v1"), tmp_path / "bundle")
    (tmp_path / "bundle/rootfs/etc/second").write_text("second\n")
    middle.run("repack", "--image", middle.image("v2"), tmp_path / "bundle")
    skopeo.copy(f"oci:{middle.image('v2')}", f"{reference}:v2")

    back = Umoci(tmp_path / "back")
    skopeo.copy(f"{reference}:v2", f"oci:{back.image('v2')}")
    back.run("unpack", "--image", back.image("v2"), tmp_path / "unpacked")
    etc = tmp_path / "unpacked/rootfs/etc"
    assert {path.name: path.read_text() for path in etc.iterdir()} == {"first": "first\n", "second": "second\n"}
