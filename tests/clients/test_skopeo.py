"""skopeo: copies in every form, sync, list-tags, inspect, delete; layers and documents that builders seldom make."""

import json
import uuid
from pathlib import Path

import pytest

from tests.clients import reading
from tests.clients.images import INDEX_TYPE, MANIFEST_TYPE, Index, layout_blobs
from tests.clients.layouts import (
    DOCKER_LIST_TYPE,
    DOCKER_MANIFEST_TYPE,
    FOREIGN_TYPE,
    GZIP_TYPE,
    ZSTD_TYPE,
    Descriptor,
    Layout,
    gzipped,
    layer_tar,
    sha256,
    zstd,
)
from tests.clients.targets import Target
from tests.clients.tools import CommandFailed, Podman, Skopeo

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("target", ["embedded", "cluster"], indirect=True),
]


def _repository(target: Target) -> str:
    return f"{target.address}/{uuid.uuid4().hex[:12]}/skopeo"


def _name(repository: str) -> str:
    return repository.partition("/")[2]


def _mixed_image(layout: Layout, seed: int) -> Descriptor:
    """Layers in gzip and in zstd, and one without a file."""
    tars = [layer_tar(300_000, seed, "a"), layer_tar(70_000, seed + 1, "b"), layer_tar(0, 0)]
    layers = [
        layout.add(gzipped(tars[0]), GZIP_TYPE),
        layout.add(zstd(tars[1]), ZSTD_TYPE),
        layout.add(gzipped(tars[2]), GZIP_TYPE),
    ]
    return layout.add_image([(layer, sha256(tar)) for layer, tar in zip(layers, tars, strict=True)])


@pytest.mark.feature("skopeo", "copy: gzip, zstd and empty layers, byte for byte")
def test_layers_in_gzip_and_zstd_and_empty_ones_come_back_byte_for_byte(
    skopeo: Skopeo, target: Target, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "there")
    layout.tag("latest", _mixed_image(layout, 41))
    reference = f"docker://{_repository(target)}:v1"
    skopeo.copy(f"oci:{layout.directory}:latest", reference, "--preserve-digests")
    skopeo.copy(reference, f"oci:{tmp_path / 'back'}:latest", "--preserve-digests")
    assert layout_blobs(tmp_path / "back") == layout_blobs(layout.directory)


@pytest.mark.feature("skopeo", "copy: an index becomes docker's manifest list and an index again")
def test_an_index_becomes_a_manifest_list_and_an_index_again(skopeo: Skopeo, target: Target, platforms: Index) -> None:
    repository = _repository(target)
    skopeo.copy(f"oci:{platforms.layout}:latest", f"docker://{repository}:list", "--all", "--format", "v2s2")
    skopeo.copy(f"docker://{repository}:list", f"docker://{repository}:index", "--all", "--format", "oci")
    for tag, list_type, manifest_type in (
        ("list", DOCKER_LIST_TYPE, DOCKER_MANIFEST_TYPE),
        ("index", INDEX_TYPE, MANIFEST_TYPE),
    ):
        document = skopeo.inspect(f"{repository}:{tag}", "--raw")
        assert document["mediaType"] == list_type
        assert [child["mediaType"] for child in document["manifests"]] == [manifest_type] * 2
        for child, image in zip(document["manifests"], platforms.images, strict=True):
            config = skopeo.inspect(f"{repository}@{child['digest']}", "--config")
            assert config["rootfs"]["diff_ids"] == [layer.digest for layer in image.layers]


@pytest.mark.feature("skopeo", "copy: foreign layers stay where their URLs lead")
@pytest.mark.feature("podman", "pull: foreign layers are fetched from their URLs")
def test_foreign_layers_are_not_pushed_and_are_fetched_from_their_urls(
    skopeo: Skopeo, podman: Podman, target: Target, tmp_path: Path
) -> None:
    tars = [layer_tar(100_000, 51, "foreign"), layer_tar(1_000, 52, "own")]
    foreign = gzipped(tars[0])
    elsewhere = f"{uuid.uuid4().hex[:12]}/elsewhere"
    reading.push_blob(target, elsewhere, foreign, sha256(foreign))
    url = f"http://{target.address}/v2/{elsewhere}/blobs/{sha256(foreign)}"
    described = {"mediaType": FOREIGN_TYPE, "digest": sha256(foreign), "size": len(foreign), "urls": [url]}
    layout = Layout(tmp_path / "there")
    own = layout.add(gzipped(tars[1]), GZIP_TYPE)
    image = layout.add_image([(described, sha256(tars[0])), (own, sha256(tars[1]))])
    layout.tag("latest", image)

    repository = _repository(target)
    skopeo.copy(f"oci:{layout.directory}:latest", f"docker://{repository}:v1", "--preserve-digests")
    assert reading.get(target, f"{_name(repository)}/blobs/{sha256(foreign)}").status == 404
    podman.pull(f"{repository}:v1")
    assert podman.image_id(f"{repository}:v1") == json.loads(layout.read(image["digest"]))["config"]["digest"]
    podman.remove(f"{repository}:v1")


@pytest.mark.feature("skopeo", "sync: a repository with all its tags, to a directory and into another repository")
def test_sync_takes_a_repository_with_all_its_tags(
    skopeo: Skopeo, target: Target, platforms: Index, tmp_path: Path
) -> None:
    repository = _repository(target)
    for tag in ("v1", "v2"):
        skopeo.copy(f"oci:{platforms.layout}:latest", f"docker://{repository}:{tag}", "--all")
    sync = ["sync", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"]
    skopeo.run(*sync, "--src", "docker", "--dest", "dir", repository, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    pushed = skopeo.inspect(f"{repository}:v2")["Digest"]
    mirror = f"{target.address}/{uuid.uuid4().hex[:12]}"
    skopeo.run(*sync, "--src", "docker", "--dest", "docker", repository, mirror)
    again = f"{target.address}/{uuid.uuid4().hex[:12]}"
    skopeo.run(*sync, "--src", "dir", "--dest", "docker", tmp_path, again)
    for place in (mirror, again):
        assert _tags(skopeo, f"{place}/skopeo") == ["v1", "v2"]
        assert skopeo.inspect(f"{place}/skopeo:v2")["Digest"] == pushed


@pytest.mark.feature("skopeo", "list-tags, inspect, delete")
def test_what_is_deleted_is_no_longer_listed_and_the_rest_stays(skopeo: Skopeo, target: Target, tmp_path: Path) -> None:
    repository = _repository(target)
    layout = Layout(tmp_path / "there")
    images = {tag: _mixed_image(layout, seed) for tag, seed in (("keep", 61), ("gone", 63))}
    for tag, image in images.items():
        layout.tag(tag, image)
        skopeo.copy(f"oci:{layout.directory}:{tag}", f"docker://{repository}:{tag}", "--preserve-digests")
    assert _tags(skopeo, repository) == ["gone", "keep"]
    told = skopeo.inspect(f"{repository}:gone")
    assert told["Digest"] == images["gone"]["digest"]
    assert told["RepoTags"] == ["gone", "keep"]
    layers = json.loads(layout.read(images["gone"]["digest"]))["layers"]
    assert told["Layers"] == [layer["digest"] for layer in layers]

    skopeo.run("delete", "--tls-verify=false", f"docker://{repository}:gone")
    assert _tags(skopeo, repository) == ["keep"]
    with pytest.raises(CommandFailed, match="manifest unknown"):
        skopeo.inspect(f"{repository}:gone")
    assert skopeo.inspect(f"{repository}:keep")["Digest"] == images["keep"]["digest"]


@pytest.mark.feature("skopeo", "copy: an SBOM that is found as referrer, and by the fallback tag of older clients")
def test_an_sbom_is_found_as_referrer_and_by_the_fallback_tag(skopeo: Skopeo, target: Target, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "there")
    image = _mixed_image(layout, 71)
    subject = {key: image[key] for key in ("mediaType", "digest", "size")}
    sbom = layout.add_manifest(
        layout.add(b"{}", "application/vnd.oci.empty.v1+json"),
        [layout.add(b'{"spdxVersion": "SPDX-2.3"}', "application/spdx+json")],
        artifactType="application/spdx+json",
        subject=subject,
        annotations={"org.example.made-by": "tests"},
    )
    fallback = image["digest"].replace(":", "-")
    layout.tag("app", image)
    layout.tag(fallback, layout.add_index([sbom]))
    repository = _repository(target)
    skopeo.copy(f"oci:{layout.directory}:app", f"docker://{repository}:app", "--preserve-digests")
    skopeo.copy(f"oci:{layout.directory}:{fallback}", f"docker://{repository}:{fallback}", "--all")

    found = reading.referrers(target, _name(repository), image["digest"])
    assert found == [sbom | {"artifactType": "application/spdx+json", "annotations": {"org.example.made-by": "tests"}}]
    listed = skopeo.inspect(f"{repository}:{fallback}", "--raw")["manifests"]
    assert [child["digest"] for child in listed] == [sbom["digest"]]
    back = tmp_path / "back"
    skopeo.copy(f"docker://{repository}@{sbom['digest']}", f"oci:{back}:sbom", "--preserve-digests")
    assert sbom["digest"] in layout_blobs(back)


def _tags(skopeo: Skopeo, repository: str) -> list[str]:
    tags: list[str] = json.loads(skopeo.run("list-tags", "--tls-verify=false", f"docker://{repository}"))["Tags"]
    return tags
