"""What was pushed comes back bit for bit, in every local form, from either registry, and other clients agree."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.clients.images import MANIFEST_TYPE, Image, Index, layout_blobs
from tests.clients.tools import Podman, Skopeo
from tests.needs import program
from tests.transfer.conftest import Client
from tests.transfer.registries import Registry

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def repository(registry: Registry) -> str:
    """host:port/name, new."""
    return f"{registry.address}/{uuid.uuid4().hex[:12]}/app"


@pytest.fixture(scope="module")
def skopeo() -> Iterator[Skopeo]:
    skopeo = Skopeo.start()
    yield skopeo
    skopeo.close()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    podman = Podman.start()
    yield podman
    podman.close()


def test_an_index_comes_back_with_all_its_platforms(
    client: Client, repository: str, platforms: Index, tmp_path: Path
) -> None:
    done = client.run("push", platforms.layout, f"{repository}:v1")
    assert done.stdout == f"{repository}:v1 {platforms.digest}\n"
    done = client.run("pull", f"{repository}:v1", tmp_path / "layout")
    assert done.stdout == f"{repository}:v1 {platforms.digest}\n"
    assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
    named = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert [(entry["digest"], entry["annotations"]) for entry in named] == [
        (platforms.digest, {"org.opencontainers.image.ref.name": "v1"})
    ]
    assert json.loads((tmp_path / "layout" / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_one_platform_is_taken_where_one_is_asked_for(
    client: Client, repository: str, platforms: Index, tmp_path: Path
) -> None:
    client.run("push", platforms.layout, f"{repository}:v1")
    client.run("pull", f"{repository}:v1", f"oci:{tmp_path}/arm:mine", "--platform", "linux/arm64")
    image = platforms.images[1]
    found = layout_blobs(tmp_path / "arm")
    assert {layer.digest for layer in image.layers} | {image.image_id} < found
    assert len(found) == len(image.layers) + 2
    client.run("push", platforms.layout, f"{repository}:amd", "--platform", "linux/amd64")
    client.run("pull", f"{repository}:amd", tmp_path / "amd")
    assert platforms.images[0].image_id in layout_blobs(tmp_path / "amd")
    done = client.run("pull", f"{repository}:v1", tmp_path / "none", "--platform", "linux/s390x", code=1)
    assert "linux/amd64, linux/arm64" in done.stderr


def test_what_is_there_is_skipped_and_what_another_repository_has_is_mounted(
    client: Client, registry: Registry, repository: str, platforms: Index, tmp_path: Path
) -> None:
    def ways(*arguments: str | Path) -> dict[str, int]:
        last = client.run(*arguments, "--json").stdout.splitlines()[-1]
        result = json.loads(last)
        assert result["event"] == "result"
        assert result["digest"] == platforms.digest
        ways: dict[str, int] = result["blobs"]
        return ways

    count = len({layer.digest for image in platforms.images for layer in image.layers}) + 2
    assert ways("push", platforms.layout, f"{repository}:v1") == {"pushed": count}
    assert ways("push", platforms.layout, f"{repository}:v2") == {"exists": count}
    # Another run knows where the blobs are; another cache does not, until it is told.
    assert ways("push", platforms.layout, f"{repository}-2:v1") == {"mounted": count}
    (tmp_path / "other").mkdir()
    client = Client(tmp_path / "other")
    name = repository.partition("/")[2]
    assert ways("push", platforms.layout, f"{repository}-3:v1", "--mount-from", name) == {"mounted": count}
    assert ways("pull", f"{repository}:v1", tmp_path / "layout") == {"pulled": count}
    assert ways("pull", f"{repository}:v1", tmp_path / "layout") == {"exists": count}


def test_a_docker_archive_comes_back_and_becomes_the_same_digest_each_time(
    client: Client, repository: str, small: Image, tmp_path: Path
) -> None:
    first = client.run("push", small.archive, f"{repository}:v1", "--quiet").stdout
    second = client.run("push", f"docker-archive:{small.archive}", f"{repository}:v2", "--quiet").stdout
    assert first == second
    assert not list((client.cache / "speedy" / "layers").iterdir())
    client.run("pull", f"{repository}:v1", tmp_path / "back.tar")
    with tarfile.open(tmp_path / "back.tar") as archive:
        (entry,) = json.loads(_member(archive, "manifest.json"))
        assert entry["RepoTags"] == [f"{repository}:v1"]
        assert _member(archive, entry["Config"]) == small.config
        for name, layer in zip(entry["Layers"], small.layers, strict=True):
            assert _member(archive, name) == layer.path.read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_an_archive_without_compression_keeps_its_layers_digests(
    client: Client, repository: str, small: Image, tmp_path: Path
) -> None:
    client.run("push", small.archive, f"{repository}:v1", "--no-compression", "--format", "oci")
    client.run("pull", f"{repository}:v1", tmp_path / "layout")
    assert {layer.digest for layer in small.layers} | {small.image_id} < layout_blobs(tmp_path / "layout")


def test_an_oci_archive_comes_back(client: Client, repository: str, platforms: Index, tmp_path: Path) -> None:
    client.run("push", platforms.layout, f"{repository}:v1")
    client.run("pull", f"{repository}:v1", f"oci-archive:{tmp_path}/image.tar")
    done = client.run("push", tmp_path / "image.tar", f"{repository}:v2", "--quiet")
    assert done.stdout.strip() == platforms.digest
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "image.tar", "-C", tmp_path / "layout"], check=True)
    assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)


def test_several_images_live_in_one_layout(
    client: Client, repository: str, platforms: Index, small: Image, tmp_path: Path
) -> None:
    client.run("push", platforms.layout, f"{repository}:v1")
    client.run("push", small.archive, f"{repository}:v2")
    client.run("pull", f"{repository}:v1", tmp_path / "layout")
    client.run("pull", f"{repository}:v2", tmp_path / "layout")
    client.run("pull", f"{repository}:v2", f"oci:{tmp_path}/layout:v1")
    named = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    assert sorted(entry["annotations"]["org.opencontainers.image.ref.name"] for entry in named) == ["v1", "v2"]
    assert len({entry["digest"] for entry in named}) == 1
    done = client.run("push", tmp_path / "layout", f"{repository}:v3", code=1)
    assert "say which by :TAG; there is v2, v1" in done.stderr
    client.run("push", f"oci:{tmp_path}/layout:v2", f"{repository}:v3")


def test_an_image_by_its_digest_is_that_image_or_none(
    client: Client, repository: str, platforms: Index, tmp_path: Path
) -> None:
    client.run("push", platforms.layout, f"{repository}@{platforms.digest}")
    client.run("pull", f"{repository}@{platforms.digest}", f"oci:{tmp_path}/layout:v1")
    assert layout_blobs(tmp_path / "layout") == layout_blobs(platforms.layout)
    other = f"sha256:{'0' * 64}"
    assert f"not {other}" in client.run("push", platforms.layout, f"{repository}@{other}", code=1).stderr


def test_referrers_travel_along(
    client: Client, registry: Registry, repository: str, platforms: Index, tmp_path: Path
) -> None:
    """Kept by the registry itself, or under the tag that the specification has for others."""
    client.run("push", platforms.layout, f"{repository}:v1")
    client.run("pull", f"{repository}:v1", tmp_path / "layout")
    signature = _add_referrer(tmp_path / "layout", platforms.digest)
    client.run("push", f"oci:{tmp_path}/layout:v1", f"{repository}-2:v1")
    assert _referrers(f"{repository}-2", platforms.digest) == []
    client.run("push", f"oci:{tmp_path}/layout:v1", f"{repository}-2:v1", "--referrers")
    assert _referrers(f"{repository}-2", platforms.digest) == [signature]
    client.run("push", f"oci:{tmp_path}/layout:v1", f"{repository}-2:v1", "--referrers")
    assert _referrers(f"{repository}-2", platforms.digest) == [signature]
    client.run("pull", f"{repository}-2:v1", tmp_path / "back", "--referrers")
    assert layout_blobs(tmp_path / "back") == layout_blobs(tmp_path / "layout")


def _add_referrer(layout: Path, subject: str) -> str:
    """A signature with no content but its own; its digest."""
    empty = _store(layout, b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": _store(layout, b"signed"), "size": 6}],
        "subject": {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": subject,
            "size": (layout / "blobs/sha256" / subject.removeprefix("sha256:")).stat().st_size,
        },
    }
    content = json.dumps(manifest).encode()
    digest = _store(layout, content)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"].append({"mediaType": manifest["mediaType"], "digest": digest, "size": len(content)})
    (layout / "index.json").write_text(json.dumps(index))
    return digest


def _store(layout: Path, content: bytes) -> str:
    name = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / name).write_bytes(content)
    return f"sha256:{name}"


def _referrers(repository: str, digest: str) -> list[str]:
    host, _, name = repository.partition("/")
    answer = requests.get(f"http://{host}/v2/{name}/referrers/{digest}", timeout=60)
    if answer.status_code == 404:
        answer = requests.get(
            f"http://{host}/v2/{name}/manifests/{digest.replace(':', '-')}",
            headers={"Accept": "application/vnd.oci.image.index.v1+json"},
            timeout=60,
        )
    return [entry["digest"] for entry in answer.json().get("manifests", [])]


@pytest.mark.clients
def test_podman_pulls_what_was_pushed_and_the_other_way_round(
    client: Client, repository: str, small: Image, podman: Podman, tmp_path: Path
) -> None:
    client.run("push", small.archive, f"{repository}:mine")
    podman.pull(f"{repository}:mine")
    assert podman.image_id(f"{repository}:mine") == small.image_id
    podman.run("tag", f"{repository}:mine", f"{repository}:podman")
    podman.push(f"{repository}:podman")
    podman.remove(f"{repository}:podman")
    client.run("pull", f"{repository}:podman", tmp_path / "back.tar")
    podman.run("load", "--quiet", "--input", tmp_path / "back.tar")
    assert podman.image_id(f"{repository}:podman") == small.image_id
    podman.remove(f"{repository}:podman")


@pytest.mark.clients
def test_skopeo_copies_what_was_pushed_and_the_other_way_round(
    client: Client, repository: str, platforms: Index, skopeo: Skopeo, tmp_path: Path
) -> None:
    client.run("push", platforms.layout, f"{repository}:mine")
    skopeo.copy(f"docker://{repository}:mine", f"oci:{tmp_path}/copy:latest", "--all", "--preserve-digests")
    assert layout_blobs(tmp_path / "copy") == layout_blobs(platforms.layout)
    skopeo.copy(f"oci:{tmp_path}/copy:latest", f"docker://{repository}:skopeo", "--all", "--preserve-digests")
    client.run("pull", f"{repository}:skopeo", tmp_path / "mine")
    assert layout_blobs(tmp_path / "mine") == layout_blobs(platforms.layout)
    # It reads what we write, in each form.
    client.run("pull", f"{repository}:skopeo", f"oci-archive:{tmp_path}/mine.oci.tar")
    client.run("pull", f"{repository}:skopeo", tmp_path / "mine.tar", "--platform", "linux/arm64")
    for number, form in enumerate((f"oci:{tmp_path}/mine:skopeo", f"oci-archive:{tmp_path}/mine.oci.tar:skopeo")):
        skopeo.copy(form, f"docker://{repository}:again-{number}", "--all", "--preserve-digests")
        assert skopeo.inspect(f"{repository}:again-{number}", "--raw") == json.loads(platforms.document)
    skopeo.copy(f"docker-archive:{tmp_path}/mine.tar", f"docker://{repository}:arm")
    assert skopeo.inspect(f"{repository}:arm", "--config")["architecture"] == "arm64"


def test_layers_in_zstd_stay_as_they_are_and_are_unpacked_for_docker(
    client: Client, repository: str, small: Image, tmp_path: Path
) -> None:
    layout = _zstd_layout(small, tmp_path / "zstd")
    client.run("push", layout, f"{repository}:v1")
    client.run("pull", f"{repository}:v1", tmp_path / "layout")
    assert layout_blobs(tmp_path / "layout") == layout_blobs(layout)
    client.run("pull", f"{repository}:v1", tmp_path / "plain.tar")
    with tarfile.open(tmp_path / "plain.tar") as archive:
        (entry,) = json.loads(_member(archive, "manifest.json"))
        for name, layer in zip(entry["Layers"], small.layers, strict=True):
            assert _member(archive, name) == layer.path.read_bytes()


def _zstd_layout(image: Image, layout: Path) -> Path:
    (layout / "blobs" / "sha256").mkdir(parents=True)
    packed = [subprocess.check_output([program("zstd"), "-qc", layer.path]) for layer in image.layers]
    kind = "application/vnd.oci.image.layer.v1.tar+zstd"
    manifest = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": _store(layout, image.config),
            "size": len(image.config),
        },
        "layers": [{"mediaType": kind, "digest": _store(layout, layer), "size": len(layer)} for layer in packed],
    }
    content = json.dumps(manifest).encode()
    top = {"mediaType": MANIFEST_TYPE, "digest": _store(layout, content), "size": len(content)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return layout


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
